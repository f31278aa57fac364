"""Perturbation curves of every family, end to end, with their own processors."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.metrics import perturbation_curve, sufficiency
from captum_dexar.metrics.forced_answer import ForcedAnswer
from PIL import Image
from tests.helpers.blocks import dark_image
from tests.helpers.perturbed import (
    boxed,
    literal_log_probs,
    literal_order,
    literal_removed,
    mean_colour,
)
from tests.helpers.plain_prompt_processors import florence2_processor
from tests.helpers.processors import llava_processor
from tests.helpers.real_families import FAMILIES, prompt_of
from tests.helpers.tiny_models import tiny_vlm
from torch import nn

TARGETS = [40, 7, 61]
FRACTIONS = (0.0, 0.25, 0.75)
# Families whose inputs a literal implementation can grow by hand.
LITERAL = ("llava_stretched", "paligemma", "florence2", "llava_next")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]


def world(name: str) -> tuple[nn.Module, Any, ImagePromptInput]:
    """A family's model and processor, and an image that is no square."""
    model, processor = FAMILIES[name].build(), FAMILIES[name].processor()
    if name == "florence2":  # whose model has few positions
        processor = florence2_processor(32)
    image = dark_image(48, 80)
    return (
        model,
        processor,
        ImagePromptInput(image, prompt_of(processor, model), processor, model),
    )


def random_map(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_equal_single_images(name: str) -> None:
    """On the original image it is what the explanation says."""
    model, processor, inp = world(name)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, TARGETS)
    arguments: Any = {"fractions": FRACTIONS, "fill": (255, 255, 255)}
    heat = random_map(result.grid)
    given: Any = (model, inp, heat, TARGETS)
    together = perturbation_curve(*given, **arguments)
    alone = perturbation_curve(*given, **arguments, batch_size=1)
    torch.testing.assert_close(
        together.log_probs, alone.log_probs, rtol=1e-5, atol=1e-4
    )
    unperturbed = result.token_log_probs.double()
    torch.testing.assert_close(together.log_probs[0], unperturbed, rtol=1e-5, atol=1e-5)
    # Without parts of the image it is something else.
    assert (together.log_probs[1:] - unperturbed).abs().amax(1).min() > 1e-3
    own = perturbation_curve(model, inp, result, fractions=(0.5,))
    assert own.log_probs.isfinite().all()


def test_known_families_share_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = ForcedAnswer._run

    def counted(self: Any, prompts: Any) -> Any:
        sizes.append(len(prompts))
        return run(self, prompts)

    monkeypatch.setattr(ForcedAnswer, "_run", counted)
    for name in ("llava", "florence2", "qwen2_5_vl"):
        sizes.clear()
        model, _, inp = world(name)
        heat = random_map((48, 80))
        perturbation_curve(
            model, inp, heat, TARGETS, fractions=(0, 0.1, 0.2, 0.3, 0.4), batch_size=3
        )
        # The original alone, and with the first batch as a check.
        assert sorted(sizes) == [1, 1, 4], name


@pytest.mark.parametrize("name", LITERAL)
def test_a_second_implementation(name: str) -> None:
    """An image of blocks of 8 x 8 pixels, each of one value."""
    model, processor, inp = world(name)
    blocks = random_map((6, 10), seed=3)
    heat = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
    (image,), ranked = inp.images, literal_order(blocks)
    for order, fraction in (("positive", 0.25), ("negative", 0.75)):
        gone = literal_removed(ranked, fraction, order, "removal")
        corners = [(8 * (place // 10), 8 * (place % 10)) for place in gone]
        boxes = [(y, x, y + 8, x + 8) for y, x in corners]
        changed = boxed(image, boxes, mean_colour(image))
        made = processor(images=changed, text=inp.prompt, return_tensors="pt")
        expected = torch.tensor(literal_log_probs(model, made, TARGETS))
        found = perturbation_curve(
            model,
            inp,
            heat,
            TARGETS,
            order=order,  # type: ignore[arg-type]
            fractions=(fraction,),
            unit="pixel",
        )
        torch.testing.assert_close(
            found.log_probs[0], expected.double(), rtol=1e-5, atol=1e-4
        )


def test_several_images() -> None:
    """Of two images that share one order, the one with all of the large values goes."""
    model, processor = tiny_vlm(), llava_processor()
    images = [dark_image(32, 32), dark_image(32, 32, seed=1)]
    inp = ImagePromptInput(images, "what is in <image> <image>", processor, model)
    maps = [random_map((4, 4)), 2 + random_map((4, 4), seed=1)]
    found = perturbation_curve(model, inp, maps, TARGETS, fractions=(0.0, 0.5))
    plain = [images[0], Image.new("RGB", (32, 32), tuple(mean_colour(images[1])))]
    for row, shown in enumerate((images, plain)):
        made = processor(images=shown, text=inp.prompt, return_tensors="pt")
        expected = torch.tensor(literal_log_probs(model, made, TARGETS)).double()
        torch.testing.assert_close(found.log_probs[row], expected, rtol=1e-5, atol=1e-4)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, TARGETS)
    own = perturbation_curve(model, inp, result, unit="pixel", fractions=(0.5,))
    assert own.log_probs.isfinite().all()


def test_segments() -> None:
    """The parts of a map of Captum's segments are these."""
    model, processor = tiny_vlm(), llava_processor()
    image = dark_image(32, 32)
    plain = ImagePromptInput(image, "what", processor, model)
    mask = torch.zeros(32, 32, dtype=torch.int32)
    mask[:20, :10], mask[20:, 8:], mask[5:10, 20:] = 1, 2, 3
    inp = ImageMaskInput(image, mask=mask, processor_fn=plain.processor_fn)
    method = VLMAttribution(FeatureAblation(VLMForward(model)), processor)
    result = method.attribute(inp, TARGETS)
    ranked = literal_order(result.seq_attr)
    found = perturbation_curve(model, inp, result, fractions=(0.0, 0.25, 0.5))
    for row in range(3):
        pixels = np.array(image)
        for segment in ranked[:row]:
            pixels[mask.numpy() == segment] = mean_colour(image)
        made = plain.processor_fn(Image.fromarray(pixels))
        expected = torch.tensor(literal_log_probs(model, made, TARGETS)).double()
        torch.testing.assert_close(found.log_probs[row], expected, rtol=1e-5, atol=1e-4)


def test_what_a_word_keeps_with_several_tokens() -> None:
    model, processor, inp = world("florence2")
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, TARGETS)
    shown: Any = {"fractions": (0.0, 0.3), "mode": "insertion"}
    curve = perturbation_curve(model, inp, result, selection=(1, 3), **shown)
    found = sufficiency(model, inp, result, (1, 3), fraction=0.3)
    empty, top = curve.log_probs.sum(1).tolist()
    assert found.log_prob == top and found.empty_log_prob == empty
    assert found.unperturbed_log_prob == float(curve.unperturbed_log_probs.sum())
