"""LayerDexAR and VLMForward do what a Captum user expects of them."""

from typing import Any

import pytest
import torch
from captum.attr import (
    Attribution,
    GradientAttribution,
    IntegratedGradients,
    LayerAttribution,
    NoiseTunnel,
    Saliency,
)
from captum.metrics import infidelity, sensitivity_max
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import (
    GRID,
    NUM_IMAGE_TOKENS,
    prompt_inputs,
    tiny_vlm,
    VOCABULARY,
)
from torch import Tensor

ENGINES = ("closed_form", "autograd")
TARGET = 40


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_vlm()


@pytest.fixture
def pixels() -> Tensor:
    return prompt_inputs()["pixel_values"]


@pytest.fixture
def arguments() -> tuple[Tensor, dict[str, Tensor]]:
    ids = prompt_inputs()["input_ids"]
    return ids, {"attention_mask": torch.ones_like(ids)}


def two_examples() -> tuple[Tensor, tuple[Tensor]]:
    inputs = prompt_inputs(batch=2)
    return inputs["pixel_values"], (inputs["input_ids"],)


def explained(method: LayerDexAR, *args: Any, **kwargs: Any) -> Tensor:
    """A map that is not zero: equality of zeros would show nothing."""
    attr = method.attribute(*args, **kwargs)
    assert isinstance(attr, Tensor)
    assert attr.flatten(1).amax(1).min() > 0
    return attr


def test_it_is_a_captum_method(model: Any) -> None:
    method = LayerDexAR(model)
    assert isinstance(method, LayerAttribution)
    assert isinstance(method, GradientAttribution)
    assert isinstance(VLMAttribution(method), Attribution)
    assert method.forward_func is model
    assert method.layer == list(model.model.language_model.layers)
    assert method.get_name() == "Layer DEX-AR"
    assert not method.has_convergence_delta()
    assert not method.multiplies_by_inputs
    with pytest.raises(NotImplementedError, match="no convergence delta"):
        method.compute_convergence_delta()
    with pytest.raises(NotImplementedError, match="attribute_future"):
        method.attribute_future()


@pytest.mark.parametrize("engine", ENGINES)
def test_shape_and_range(
    model: Any, engine: str, pixels: Tensor, arguments: Any
) -> None:
    method = LayerDexAR(model, engine=engine)
    attr = explained(method, pixels, TARGET, arguments)
    assert attr.shape == (1, 1, GRID, GRID)
    assert attr.dtype == torch.float32
    assert attr.min() == 0 and attr.max() == 1
    assert not attr.requires_grad


@pytest.mark.parametrize("engine", ENGINES)
def test_examples_are_explained_each_by_itself(model: Any, engine: str) -> None:
    method = LayerDexAR(model, engine=engine)
    pixels, (ids,) = two_examples()
    attr = explained(method, pixels, [40, 41], (ids,), normalize=False)
    assert attr.shape == (2, 1, GRID, GRID)
    for index, target in enumerate([40, 41]):
        one = slice(index, index + 1)
        alone = explained(method, pixels[one], target, (ids[one],), normalize=False)
        assert relative_error(attr[one], alone) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_sum_to_the_whole(
    model: Any, engine: str, pixels: Tensor, arguments: Any
) -> None:
    method = LayerDexAR(model, engine=engine)
    whole = explained(method, pixels, TARGET, arguments, normalize=False)
    layers = method.attribute(
        pixels, TARGET, arguments, normalize=False, sum_layers=False
    )
    assert isinstance(layers, list)
    assert [layer.shape for layer in layers] == [(1, 1, GRID, GRID)] * 3
    torch.testing.assert_close(torch.stack(layers).sum(0), whole)
    for index, layer in enumerate(model.model.language_model.layers):
        alone = LayerDexAR(model, layer, engine=engine).attribute(
            pixels, TARGET, arguments, normalize=False
        )
        torch.testing.assert_close(alone, layers[index])
    assert sum(bool(layer.any()) for layer in layers) >= 2


def test_a_list_of_layers_keeps_its_order(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    every = list(model.model.language_model.layers)
    options: dict[str, Any] = {"normalize": False, "sum_layers": False}
    in_order = LayerDexAR(model).attribute(pixels, TARGET, arguments, **options)
    chosen = LayerDexAR(model, [every[2], every[0]])
    attr = chosen.attribute(pixels, TARGET, arguments, **options)
    assert len(attr) == 2
    torch.testing.assert_close(attr[0], in_order[2])
    torch.testing.assert_close(attr[1], in_order[0])


def test_normalized_maps_are_stretched(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    method = LayerDexAR(model)
    plain = explained(method, pixels, TARGET, arguments, normalize=False)
    stretched = explained(method, pixels, TARGET, arguments)
    expected = (plain - plain.min()) / (plain.max() - plain.min())
    torch.testing.assert_close(stretched, expected)
    assert not torch.allclose(plain, stretched)


@pytest.mark.parametrize(
    "target",
    [[40], torch.tensor(40), torch.tensor([40]), torch.tensor([40], dtype=torch.int32)],
    ids=["list", "0-d", "1-D", "int32"],
)
def test_forms_of_a_target(
    model: Any, target: Any, pixels: Tensor, arguments: Any
) -> None:
    method = LayerDexAR(model)
    expected = explained(method, pixels, 40, arguments)
    assert torch.equal(explained(method, pixels, target, arguments), expected)


def test_one_target_is_for_all_examples(model: Any) -> None:
    method = LayerDexAR(model)
    pixels, arguments = two_examples()
    expected = explained(method, pixels, [40, 40], arguments)
    for target in (40, torch.tensor(40), [40]):
        assert torch.equal(explained(method, pixels, target, arguments), expected)


def test_without_a_target_the_models_own_token_is_explained(model: Any) -> None:
    pixels, arguments = two_examples()
    with torch.no_grad():
        own = VLMForward(model)(pixels, *arguments).argmax(-1)
    method = LayerDexAR(model)
    assert own[0] != own[1]
    attr = method.attribute(pixels, additional_forward_args=arguments)
    assert isinstance(attr, Tensor) and attr.any()
    assert torch.equal(attr, method.attribute(pixels, own, arguments))


def test_arguments_may_be_wrapped_or_left_out(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    ids, others = arguments
    expected = explained(LayerDexAR(model), pixels, TARGET, (ids, others))
    method = LayerDexAR(VLMForward(model))
    assert torch.equal(explained(method, (pixels,), TARGET, (ids, others)), expected)
    assert torch.equal(explained(method, pixels, TARGET, (ids,)), expected)
    assert torch.equal(explained(method, pixels, TARGET, ids), expected)
    assert torch.equal(explained(method, pixels, TARGET, (ids, None)), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_may_be_off_and_the_model_frozen(
    model: Any, engine: str, pixels: Tensor, arguments: Any
) -> None:
    expected = explained(LayerDexAR(model, engine=engine), pixels, TARGET, arguments)
    frozen = LayerDexAR(tiny_vlm().requires_grad_(False), engine=engine)
    assert torch.equal(explained(frozen, pixels, TARGET, arguments), expected)
    with torch.no_grad():
        assert torch.equal(explained(frozen, pixels, TARGET, arguments), expected)
        method = LayerDexAR(model, engine=engine)
        assert torch.equal(explained(method, pixels, TARGET, arguments), expected)


def test_noise_tunnel_with_hardly_any_noise_is_the_method(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    method = LayerDexAR(model)
    expected = explained(method, pixels, TARGET, arguments, normalize=False)
    torch.manual_seed(0)
    tunnel = NoiseTunnel(method)
    options: dict[str, Any] = {
        "target": TARGET,
        "additional_forward_args": arguments,
        "normalize": False,
        "nt_samples": 3,
    }
    smooth = tunnel.attribute(pixels, stdevs=1e-6, **options)
    assert smooth.shape == expected.shape
    assert relative_error(smooth, expected) < 1e-3
    noisy = tunnel.attribute(pixels, stdevs=0.5, nt_samples_batch_size=1, **options)
    assert relative_error(noisy, expected) > 1e-3


def test_sensitivity_is_finite_and_not_negative(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    torch.manual_seed(0)
    sensitivity = sensitivity_max(
        LayerDexAR(model).attribute,
        pixels,
        n_perturb_samples=2,
        target=TARGET,
        additional_forward_args=arguments,
        normalize=False,
    )
    assert sensitivity.shape == (1,)
    assert bool(torch.isfinite(sensitivity).all()) and float(sensitivity) > 0


def test_infidelity_takes_the_map_on_the_pixels(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    attr = explained(LayerDexAR(model), pixels, TARGET, arguments)
    on_pixels = LayerAttribution.interpolate(attr, (32, 32), "bilinear")

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    torch.manual_seed(0)
    value = infidelity(
        VLMForward(model),
        perturb,
        pixels,
        on_pixels.expand_as(pixels),
        additional_forward_args=arguments,
        target=TARGET,
        n_perturb_samples=2,
    )
    assert value.shape == (1,) and bool(torch.isfinite(value).all())


def test_interpolate_resizes_the_map(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    attr = explained(LayerDexAR(model), pixels, TARGET, arguments)
    larger = LayerAttribution.interpolate(attr, (32, 48), "nearest")
    assert larger.shape == (1, 1, 32, 48)
    expected = attr.repeat_interleave(8, dim=2).repeat_interleave(12, dim=3)
    assert torch.equal(larger, expected)


def test_forward_gives_the_models_next_token_logits(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    ids, others = arguments
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pixels, **others).logits[:, -1]
        logits = VLMForward(model)(pixels, ids, others)
        repeated = VLMForward(model)(pixels.repeat(3, 1, 1, 1), ids, others)
    assert logits.shape == (1, VOCABULARY)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(repeated, expected.repeat(3, 1))


def test_captums_methods_run_on_the_same_arguments(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    forward = VLMForward(model)
    saliency = Saliency(forward).attribute(
        pixels.clone().requires_grad_(),
        TARGET,
        abs=False,
        additional_forward_args=arguments,
    )
    by_hand = pixels.clone().requires_grad_()
    logit = model(pixel_values=by_hand, input_ids=arguments[0]).logits[0, -1, TARGET]
    (gradient,) = torch.autograd.grad(logit, by_hand)
    assert relative_error(saliency, gradient) < 1e-4
    integrated, delta = IntegratedGradients(forward).attribute(
        pixels,
        target=TARGET,
        additional_forward_args=arguments,
        n_steps=64,
        internal_batch_size=32,
        return_convergence_delta=True,
    )
    assert integrated.shape == pixels.shape
    with torch.no_grad():
        difference = (forward(pixels, *arguments) - forward(0 * pixels, *arguments))[
            0, TARGET
        ]
    assert float(delta.abs()) < 0.05 * float(difference.abs())


def test_one_step_is_the_wrappers_first_token(
    model: Any, pixels: Tensor, arguments: Any
) -> None:
    attr = explained(LayerDexAR(model), pixels, TARGET, arguments, normalize=False)
    result = VLMAttribution(LayerDexAR(model)).attribute(prompt_inputs(), [TARGET, 41])
    assert result.token_attr.shape == (2, NUM_IMAGE_TOKENS)
    assert relative_error(attr.flatten(), result.token_attr[0]) < 1e-5
