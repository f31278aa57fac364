"""Captum's own machinery on LayerDexAR and on the methods that it is compared with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    LayerActivation,
    LayerAttribution,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LLMAttribution,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
    visualization as captum_plots,
)
from captum.metrics import infidelity, sensitivity_max
from captum_dexar import (
    baselines,
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMForward,
)
from captum_dexar.families import adapter_for_config
from captum_dexar.metrics import on_pixels
from captum_dexar.shapes import load_vlm, make_scene
from tests.families.cases import CASES
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm, VOCABULARY
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
]
TARGET = 40
# Nothing of these maps depends on the pixels.
CHANCE = ("LayerRandomMap", "LayerUniformMap")
STEPWISE = ("LayerDexAR", "LayerDexAR by autograd", *baselines.__all__)
INFORMED = tuple(name for name in STEPWISE if name not in CHANCE)


def made(name: str, model: nn.Module) -> Any:
    if name == "LayerDexAR by autograd":
        return LayerDexAR(model, engine="autograd")
    if name == "LayerDexAR":
        return LayerDexAR(model)
    return getattr(baselines, name)(model)


# Rows of their pixels are patches or tiles, not examples.
FLAT = (
    "internvl",
    "qwen2_5_vl",
    "qwen3_vl",
    "video_llama_3",
    "pixtral",
    "gemma3_crops",
    "gemma4",
    "lfm2_vl",
    "llama4",
    "fuyu",
)


@pytest.fixture(scope="module", name="model")
def _model() -> Any:
    return warm(tiny_vlm(seed=3), prompt_inputs(3))


@pytest.fixture(name="pixels")
def _pixels() -> Tensor:
    return prompt_inputs(3)["pixel_values"]


@pytest.fixture(name="arguments")
def _arguments() -> tuple[Tensor, dict[str, Tensor]]:
    ids = prompt_inputs(3)["input_ids"]
    return ids, {"attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("name", INFORMED)
def test_noise_tunnel(name: str, model: Any, pixels: Tensor, arguments: Any) -> None:
    method = made(name, model)
    plain = method.attribute(pixels, TARGET, arguments, normalize=False)
    assert plain.any()
    torch.manual_seed(0)
    tunnel = NoiseTunnel(method)
    options: dict[str, Any] = {
        "target": TARGET,
        "additional_forward_args": arguments,
        "normalize": False,
        "nt_samples": 3,
    }
    smooth = tunnel.attribute(pixels, stdevs=1e-6, **options)
    assert smooth.shape == plain.shape
    assert relative_error(smooth, plain) < 1e-3
    noisy = tunnel.attribute(pixels, stdevs=0.5, nt_samples_batch_size=1, **options)
    assert noisy.isfinite().all()
    assert relative_error(noisy, plain) > 1e-3


@pytest.mark.parametrize("name", FLAT)
def test_noise_tunnel_on_patches_and_tiles(name: str) -> None:
    """It repeats row by row, which must not tear an example's patches apart."""
    case = next(case for case in CASES if case.name == name)
    model: Any = case.model(3, case.implementations[0])
    assert adapter_for_config(model.config).flat_pixels
    inputs = case.inputs(3, 3)
    pixels, ids = inputs.pop("pixel_values"), inputs.pop("input_ids")
    method = LayerDexAR(model)
    plain = method.attribute(pixels, TARGET, (ids, inputs), normalize=False)
    with_axis = method.attribute(pixels[None], TARGET, (ids, inputs), normalize=False)
    assert torch.equal(plain, with_axis)
    smooth = NoiseTunnel(method).attribute(
        pixels[None],
        target=TARGET,
        additional_forward_args=(ids, inputs),
        normalize=False,
        nt_samples=3,
        stdevs=1e-6,
    )
    assert smooth.shape == plain.shape
    assert relative_error(smooth, plain) < 1e-3


@pytest.mark.parametrize("name", STEPWISE)
def test_sensitivity(name: str, model: Any, pixels: Tensor, arguments: Any) -> None:
    torch.manual_seed(0)
    sensitivity = sensitivity_max(
        made(name, model).attribute,
        pixels,
        n_perturb_samples=2,
        target=TARGET,
        additional_forward_args=arguments,
        normalize=False,
    )
    assert sensitivity.shape == (1,) and bool(sensitivity.isfinite())
    assert (float(sensitivity) == 0) == (name in CHANCE)


@pytest.mark.parametrize("name", STEPWISE)
def test_infidelity(name: str, model: Any, pixels: Tensor, arguments: Any) -> None:
    attr = made(name, model).attribute(pixels, TARGET, arguments)
    assert LayerAttribution.interpolate(attr, (32, 32)).shape == (1, 1, 32, 32)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    torch.manual_seed(0)
    value = infidelity(
        VLMForward(model),
        perturb,
        pixels,
        on_pixels(attr, pixels),
        additional_forward_args=arguments,
        target=TARGET,
        n_perturb_samples=4,
        normalize=True,
    )
    assert value.shape == (1,) and bool(value.isfinite()) and float(value) >= 0


def test_infidelity_of_a_known_function() -> None:
    """Of a function that is linear in coarse cells, the cells' weights are faithful,
    and other weights are not."""
    weights = torch.tensor([[[[1.0, -2.0], [3.0, 0.5]]]])
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    attribution = on_pixels(weights, pixels, mode="nearest")

    def forward(inputs: Tensor) -> Tensor:
        return (inputs * attribution).flatten(1).sum(1)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(inputs)
        return noise, inputs - noise

    assert float(infidelity(forward, perturb, pixels, attribution)) < 1e-6
    other = on_pixels(weights.flip(-1), pixels, mode="nearest")
    assert float(infidelity(forward, perturb, pixels, other)) > 1.0


def test_maps_are_laid_on_pixels() -> None:
    maps = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 4.0]]]])
    pixels = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    laid = on_pixels(maps, pixels, mode="nearest")
    assert laid.shape == pixels.shape and laid.dtype == pixels.dtype
    assert laid[1, 2].tolist() == [[2.0, 2.0, 4.0, 4.0]] * 2
    for map_shape, pixel_shape in (
        ((1, 4, 4), (1, 3, 8, 8)),
        ((1, 2, 4, 4), (1, 3, 8, 8)),
        ((1, 1, 4, 4), (24, 384)),
        ((1, 1, 4, 4), (3, 3, 8, 8)),
    ):
        with pytest.raises(ValueError, match="Expected maps"):
            on_pixels(torch.zeros(map_shape), torch.zeros(pixel_shape))


def test_captum_s_plots_and_a_shared_scale() -> None:
    """Captum scales every figure by itself; side by side in one array, maps share."""
    model, processor = load_vlm()
    image = make_scene(0).image
    inp = ImagePromptInput(image, "Describe the image.", processor)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target="a red")
    maps: Any = result.token_maps
    larger: Any = LayerAttribution.interpolate(
        maps[:, None].float(), (image.height, image.width), "bilinear"
    )
    assert larger.shape == (2, 1, image.height, image.width)
    single = larger[0].permute(1, 2, 0).numpy()
    figure, _ = captum_plots.visualize_image_attr(
        single, np.array(image), "blended_heat_map", "positive", use_pyplot=False
    )
    assert len(figure.axes) >= 1
    figure, axes = captum_plots.visualize_image_attr_multiple(
        single,
        np.array(image),
        ["original_image", "heat_map"],
        ["all", "positive"],
        use_pyplot=False,
    )
    assert len(axes) == 2
    # The second word's map, made half as strong, is drawn half as strong.
    halved = np.concatenate([single, 0.5 * single], axis=1)
    figure, axis = captum_plots.visualize_image_attr(
        halved, None, "heat_map", "positive", use_pyplot=False, outlier_perc=0
    )
    drawn = np.asarray(axis.images[0].get_array())
    left, right = np.split(drawn, 2, axis=1)
    np.testing.assert_allclose(right, 0.5 * left, atol=1e-6)


def test_captum_s_language_model_wrapper_takes_the_same_input() -> None:
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(0).image, "Describe the image.", processor)
    target = VLMAttribution(LayerDexAR(model), processor).attribute(inp, "a").target_ids
    theirs = LLMAttribution(FeatureAblation(model), processor.tokenizer).attribute(
        inp, target=target, use_cached_outputs=False
    )
    ours = VLMAttribution(FeatureAblation(VLMForward(model)), processor).attribute(
        inp, target=target
    )
    assert theirs.token_attr is not None
    assert relative_error(ours.token_attr, theirs.token_attr) <= 1e-4


class Broken(Exception):
    """Raised by a hook of the test in the middle of a pass."""


@contextmanager
def broken(part: nn.Module) -> Iterator[None]:
    def fail(module: nn.Module, args: Any, output: Any) -> None:
        raise Broken

    handle = part.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("name", STEPWISE)
def test_one_step_leaves_no_hook(
    name: str, model: Any, pixels: Tensor, arguments: Any
) -> None:
    method = made(name, model)
    with untouched(model):
        before = method.attribute(pixels, TARGET, arguments)
    for bad in (VOCABULARY, -1, [1, 2, 3], "circle"):
        with untouched(model), pytest.raises((TypeError, ValueError)):
            method.attribute(pixels, bad, arguments)
    layers = model.model.language_model.layers
    for part in (model.model.vision_tower, layers[1].mlp, layers[2].self_attn):
        with broken(part), untouched(model), pytest.raises(Broken):
            method.attribute(pixels, TARGET, arguments)
    assert torch.equal(method.attribute(pixels, TARGET, arguments), before)


WRAPPED: dict[str, tuple[Any, dict[str, Any]]] = {
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 2}),
    "Saliency": (Saliency, {}),
    "InputXGradient": (InputXGradient, {}),
    "GradientShap": (GradientShap, {"baselines": torch.zeros(1, 3, 32, 32)}),
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {}),
    "ShapleyValueSampling": (ShapleyValueSampling, {"n_samples": 1}),
    "LayerGradCam": (LayerGradCam, {}),
    "LayerActivation": (LayerActivation, {}),
    "LayerGradientXActivation": (LayerGradientXActivation, {}),
    "LayerIntegratedGradients": (LayerIntegratedGradients, {"n_steps": 2}),
}


@pytest.mark.parametrize("name", [*STEPWISE, *WRAPPED])
def test_an_answer_leaves_no_hook(name: str, model: Any) -> None:
    """Success, a bad target, and modules that fail early and late."""
    arguments: dict[str, Any] = {}
    if name in STEPWISE:
        method = made(name, model)
    else:
        make, arguments = WRAPPED[name]
        layer = [model.model.multi_modal_projector] * name.startswith("Layer")
        method = make(VLMForward(model), *layer)
    explain = VLMAttribution(method).attribute
    inputs = dict(prompt_inputs(3))

    def explained() -> Tensor:
        # Methods that draw random numbers move the random state on, as they must.
        with torch.random.fork_rng():
            state = np.random.get_state()
            torch.manual_seed(0)
            np.random.seed(0)
            try:
                return explain(inputs, target=[40, 7], **arguments).token_attr
            finally:
                np.random.set_state(state)

    with untouched(model):
        before = explained()
    with untouched(model), pytest.raises((TypeError, ValueError)):
        explain(inputs, target=[40, VOCABULARY], **arguments)
    if name != "FeatureAblation":  # which takes any argument, and ignores it
        with untouched(model), pytest.raises(TypeError, match="has no argument"):
            explain(inputs, target=[40], no_such_argument=1, **arguments)
    for part in (model.model.vision_tower, model.model.language_model.layers[2].mlp):
        with broken(part), untouched(model), pytest.raises(Broken):
            explained()
    torch.testing.assert_close(explained(), before)
