"""What comes out of the wrapper is what Captum gives by hand, summed into boxes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    FeatureAblation,
    GradientShap,
    ImageMaskInput,
    InputXGradient,
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LLMAttribution,
    NoiseTunnel,
    Saliency,
    ShapleyValues,
)
from captum_dexar import ImagePromptInput, VLMAttribution, VLMForward
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from tests.families.cases import CASES
from tests.helpers.blocks import dark_image
from tests.helpers.explained import relative_error
from tests.helpers.processors import llava_processor
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import Tensor

TARGETS = [40, 7, 61]
QWEN = next(case for case in CASES if case.name == "qwen2_5_vl")


def llava() -> tuple[Any, dict[str, Any], Callable[[Tensor], Tensor]]:
    """Model, inputs, and pixels summed into 4 x 4 patches of 8 x 8."""

    def summed(attribution: Tensor) -> Tensor:
        return (
            attribution[0].sum(0).unfold(0, 8, 8).unfold(1, 8, 8).sum((2, 3)).flatten()
        )

    return tiny_vlm(seed=3), dict(prompt_inputs(3)), summed


def qwen() -> tuple[Any, dict[str, Any], Callable[[Tensor], Tensor]]:
    """Model, inputs, and rows of patches summed, four to a token."""

    def summed(attribution: Tensor) -> Tensor:
        return attribution.sum(1).view(-1, 4).sum(1)

    return QWEN.model(3, "sdpa"), dict(QWEN.inputs(3, 3)), summed


FAMILIES = {"llava": llava, "qwen2_5_vl": qwen}


def by_hand(
    method: Any, model: Any, inputs: dict[str, Any], step: int, **arguments: Any
) -> Tensor:
    """One step with Captum's own calling convention, on the prefix of that step."""
    steps = DecodingSteps(Prompt(model, inputs), torch.tensor([TARGETS]))
    prefix = list(steps.prefixes())[step]
    pixels, ids = prefix.pop("pixel_values"), prefix.pop("input_ids")
    pixels = pixels.clone().requires_grad_()
    return method.attribute(
        pixels,
        target=TARGETS[step],
        additional_forward_args=(ids, prefix),
        **arguments,
    ).detach()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (IntegratedGradients, {"n_steps": 8}),
        (Saliency, {}),
        (Saliency, {"abs": False}),
        (InputXGradient, {}),
    ],
    ids=["ig", "saliency", "signed saliency", "input x gradient"],
)
def test_gradients_of_pixels(
    family: str, method: Any, arguments: dict[str, Any]
) -> None:
    model, inputs, summed = FAMILIES[family]()
    wrapped = method(VLMForward(model))
    result = VLMAttribution(wrapped).attribute(inputs, target=TARGETS, **arguments)
    for step in range(3):
        expected = by_hand(method(VLMForward(model)), model, inputs, step, **arguments)
        assert relative_error(result.token_attr[step], summed(expected)) <= 1e-5


@pytest.mark.parametrize("steps_per_batch", [1, 2, 100])
def test_passes_are_shared_in_batches_of_steps(steps_per_batch: int) -> None:
    model, inputs, _ = llava()
    passes: list[int] = []
    method = VLMAttribution(IntegratedGradients(VLMForward(model)))
    whole = method.attribute(inputs, target=TARGETS, n_steps=6)
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        batched = method.attribute(
            inputs, target=TARGETS, n_steps=6, steps_per_batch=steps_per_batch
        )
    finally:
        handle.remove()
    assert torch.equal(batched.token_attr, whole.token_attr)
    batches = -(-len(TARGETS) // steps_per_batch)
    # Two parts of the path for each batch, and one pass for the log-probabilities.
    assert len(passes) == 2 * batches + 1


def test_a_batch_has_a_step() -> None:
    model, inputs, _ = llava()
    method = VLMAttribution(Saliency(VLMForward(model)))
    with pytest.raises(ValueError, match="steps_per_batch must be positive, got 0"):
        method.attribute(inputs, target=TARGETS, steps_per_batch=0)


def test_random_methods_draw_the_same_for_every_step() -> None:
    model, inputs, summed = llava()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    tunnel = NoiseTunnel(Saliency(VLMForward(model)))
    arguments: dict[str, Any] = {"nt_samples": 3, "stdevs": 0.1}
    result = VLMAttribution(tunnel).attribute(inputs, target=TARGETS, **arguments)
    for step in range(3):
        torch.random.set_rng_state(before)
        expected = by_hand(tunnel, model, inputs, step, **arguments)
        assert relative_error(result.token_attr[step], summed(expected)) <= 1e-5
    shap = GradientShap(VLMForward(model))
    arguments = {"baselines": torch.zeros(2, 3, 32, 32), "n_samples": 2}
    torch.manual_seed(6)
    np.random.seed(6)
    one = VLMAttribution(shap).attribute(inputs, target=TARGETS, **arguments)
    torch.manual_seed(6)
    np.random.seed(6)
    other = VLMAttribution(shap).attribute(inputs, target=TARGETS[:1], **arguments)
    assert torch.equal(one.token_attr[:1], other.token_attr)


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_are_complete(family: str) -> None:
    model, inputs, _ = FAMILIES[family]()
    method = IntegratedGradients(VLMForward(model))
    # Zeros have no direction, which is what Qwen's first norm keeps of a patch.
    generator = torch.Generator().manual_seed(0)
    pixels = inputs["pixel_values"]
    baseline = torch.randn(pixels.shape, generator=generator)
    result = VLMAttribution(method).attribute(
        inputs,
        target=TARGETS,
        n_steps=200,
        baselines=baseline,
        return_convergence_delta=True,
    )
    total = result.token_attr.sum(1)
    assert (result.convergence_delta.abs() <= 0.01 * total.abs()).all()
    steps = DecodingSteps(Prompt(model, inputs), torch.tensor([TARGETS]))
    with torch.no_grad():
        logits = steps.full_pass().logits()[0]
        black = {**inputs, "pixel_values": baseline}
        without = (
            DecodingSteps(Prompt(model, black), torch.tensor([TARGETS]))
            .full_pass()
            .logits()
        )
    difference = (logits - without[0])[range(3), TARGETS]
    assert relative_error(total, difference) <= 0.01


def prompt_input(model: Any, width: int = 56) -> tuple[ImagePromptInput, Any]:
    processor = llava_processor()
    image = dark_image(40, width)
    return ImagePromptInput(image, "what is in the image", processor, model), processor


def test_ablation_is_that_of_captum_s_language_model_wrapper() -> None:
    model: Any = tiny_vlm(seed=3)
    inp, processor = prompt_input(model)
    ours = VLMAttribution(FeatureAblation(VLMForward(model)), processor).attribute(
        inp, target=TARGETS
    )
    # A string target would be tokenised with a special token before it.
    captum_s = LLMAttribution(FeatureAblation(model), processor.tokenizer)
    theirs = captum_s.attribute(
        inp, target=torch.tensor(TARGETS), use_cached_outputs=False
    )
    assert relative_error(ours.token_attr, theirs.token_attr) <= 1e-4


def test_shapley_values_of_patches() -> None:
    """Two patches: with all permutations the values are known in closed form."""
    model: Any = tiny_vlm(seed=3)
    inp, processor = prompt_input(model, width=40)

    def log_probs(present: list[int]) -> Tensor:
        tokens = torch.tensor([present]).repeat_interleave(2, 1).repeat(1, 4)
        made = inp.to_model_input(tokens)
        steps = DecodingSteps(Prompt(model, dict(made)), torch.tensor([TARGETS]))
        with torch.no_grad():
            every = steps.full_pass().logits()[0].log_softmax(-1)
        return every[range(3), TARGETS]

    both, left, right, none = map(log_probs, ([1, 1], [1, 0], [0, 1], [0, 0]))
    expected = 0.5 * ((left - none) + (both - right))
    image_columns = inp.layout.token_of_pixel() % 4
    mask = torch.where(image_columns < 2, 0, 1)
    halves = ImageMaskInput(inp.image, mask=mask, processor_fn=inp.processor_fn)
    method = VLMAttribution(ShapleyValues(VLMForward(model)), processor)
    result = method.attribute(halves, target=TARGETS)
    assert relative_error(result.token_attr[:, 0], expected) <= 1e-4


@pytest.mark.parametrize("place", ["tower", "projector"])
def test_layers_of_the_vision_side(place: str) -> None:
    model: Any = tiny_vlm(seed=3)
    inputs = dict(prompt_inputs(3))
    tower = model.model.vision_tower
    layer = (
        model.model.multi_modal_projector
        if place == "projector"
        else next(m for n, m in tower.named_modules() if n.endswith("layers.0"))
    )
    forward = VLMForward(model)

    def tokens(values: Any) -> Tensor:
        values = values[0] if isinstance(values, tuple) else values
        return values[0, -16:].detach()  # the tower's class token comes first

    checked: dict[Any, dict[str, Any]] = {
        LayerGradientXActivation: {},
        LayerActivation: {},
        LayerIntegratedGradients: {"n_steps": 6},
    }
    for method, arguments in checked.items():
        made = method(forward, layer)
        result = VLMAttribution(made).attribute(inputs, target=TARGETS, **arguments)
        for step in range(3):
            steps = DecodingSteps(Prompt(model, inputs), torch.tensor([TARGETS]))
            prefix = list(steps.prefixes())[step]
            pixels, ids = prefix.pop("pixel_values"), prefix.pop("input_ids")
            target = {} if method is LayerActivation else {"target": TARGETS[step]}
            expected = made.attribute(
                pixels.clone().requires_grad_(),
                additional_forward_args=(ids, prefix),
                **target,
                **arguments,
            )
            assert (
                relative_error(result.token_attr[step], tokens(expected).sum(-1))
                <= 1e-5
            )


def test_grad_cam_weighs_channels_by_their_mean_gradient() -> None:
    model: Any = tiny_vlm(seed=3)
    inputs = dict(prompt_inputs(3))
    projector = model.model.multi_modal_projector
    result = VLMAttribution(LayerGradCam(VLMForward(model), projector)).attribute(
        inputs, target=TARGETS
    )
    kept: list[Tensor] = []
    handle = projector.register_forward_hook(lambda m, a, o: kept.append(o))
    steps = DecodingSteps(Prompt(model, inputs), torch.tensor([TARGETS]))
    logits = steps.full_pass().logits()[0]
    handle.remove()
    for step, target in enumerate(TARGETS):
        (gradient,) = torch.autograd.grad(logits[step, target], kept, retain_graph=True)
        expected = (gradient.mean(1) * kept[0]).sum(-1)[0].detach()
        assert relative_error(result.token_attr[step], expected) <= 1e-5
