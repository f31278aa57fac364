"""Segments of Captum's ImageMaskInput: one column each, with literal values."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr import (
    FeatureAblation,
    ImageMaskInput,
    KernelShap,
    Lime,
    LLMAttribution,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
)
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
    VLMForward,
)
from PIL import Image
from tests.families.cases import paligemma, patch_grid, tiles
from tests.helpers.blocks import dark_image
from tests.helpers.explained import relative_error
from tests.helpers.patch_grid_processors import grid_processor
from tests.helpers.plain_prompt_processors import paligemma_processor
from tests.helpers.processors import CROP, llava_processor, STRETCH
from tests.helpers.tile_processors import internvl_processor
from tests.helpers.tiny_models import tiny_vlm
from torch import Tensor

matplotlib.use("Agg")
TARGETS = [40, 7, 61]
FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "llava": (lambda: tiny_vlm(seed=3), lambda: llava_processor(STRETCH)),
    "internvl": (lambda: tiles.build("internvl"), internvl_processor),
    "qwen2_5_vl": (
        lambda: patch_grid.build("qwen2_5_vl"),
        lambda: grid_processor("qwen2_5_vl"),
    ),
    "paligemma": (
        lambda: paligemma.CASES[0].model(3, "sdpa"),
        paligemma_processor,
    ),
}
# What a token of the answer has there. Only PaliGemma has token types here: 1 is a text
# after the prompt, which the prompt does not see.
GROWING = {"attention_mask": 1, "token_type_ids": 1, "mm_token_type_ids": 0}


def segments(height: int, width: int) -> Tensor:
    """Four segments; their numbers have gaps."""
    mask = torch.full((height, width), 7, dtype=torch.int32)
    mask[: height // 2, : width // 3] = 2
    mask[height // 4 :, width // 2 :] = 90
    mask[height // 2 :, : width // 4] = 3
    return mask


class World:
    """A model, Captum's input with segments, and the same image by itself."""

    def __init__(self, family: str, processor: Any = None) -> None:
        make_model, make_processor = FAMILIES[family]
        self.model = make_model()
        self.processor = make_processor() if processor is None else processor
        self.image = dark_image(40, 56)
        self.plain = ImagePromptInput(self.image, "is", self.processor, self.model)
        self.mask = segments(40, 56)

    def inp(self, **arguments: Any) -> ImageMaskInput:
        given = {"mask": self.mask, **arguments}
        return ImageMaskInput(self.image, processor_fn=self.plain.processor_fn, **given)

    def method(self, method: Any) -> VLMAttribution:
        return VLMAttribution(method(VLMForward(self.model)), self.processor)

    def log_probs(self, image: Image.Image, answer: list[int]) -> Tensor:
        """Of each token of an answer, by a pass over every prefix."""
        found = []
        for step, token in enumerate(answer):
            inputs = dict(self.plain.processor_fn(image))
            ids = torch.tensor([answer[:step]], dtype=torch.long)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
            for name, fill in GROWING.items():
                if name in inputs:
                    more = torch.full_like(ids, fill)
                    inputs[name] = torch.cat([inputs[name], more], dim=1)
            with torch.no_grad():
                logits = self.model(**inputs).logits[0, -1]
            found.append(logits.float().log_softmax(-1)[token])
        return torch.stack(found)

    def ablated(self, masks: list[Tensor], answer: list[int]) -> Tensor:
        """The drop of each log-probability without each segment, one by one."""
        whole = self.log_probs(self.image, answer)
        columns = []
        for mask in masks:
            pixels = np.array(self.image)
            pixels[mask.numpy()] = 255
            columns.append(whole - self.log_probs(Image.fromarray(pixels), answer))
        return torch.stack(columns, dim=1)


@lru_cache
def world(family: str) -> World:
    return World(family)


def masks_of(mask: Tensor) -> list[Tensor]:
    return [mask == index for index in (2, 3, 7, 90)]


@pytest.mark.parametrize("family", FAMILIES)
def test_ablation_is_a_literal_one_in_every_way(family: str) -> None:
    of = world(family)
    method, inp = of.method(FeatureAblation), of.inp()
    given = method.attribute(inp, target=TARGETS)
    expected = of.ablated(masks_of(of.mask), TARGETS)
    assert given.token_attr.shape == (3, 4)
    assert relative_error(given.token_attr, expected) <= 1e-4
    assert given.input_tokens == [f"image_feature_{index}" for index in (2, 3, 7, 90)]
    listed = method.attribute([of.plain, inp], target=[TARGETS[:1], TARGETS])
    assert torch.equal(listed[1].token_attr, given.token_attr)
    assert listed[0].token_attr.shape[1] == of.plain.n_itp_features
    gen_args = {"max_new_tokens": 2, "do_sample": False}
    generated = method.attribute(inp, gen_args=gen_args)
    answer = generated.target_ids.tolist()
    expected = of.ablated(masks_of(of.mask), answer)
    assert relative_error(generated.token_attr, expected) <= 1e-4
    streamed = list(method.stream(inp, gen_args))
    assert [int(one.target_ids) for one in streamed] == answer
    together = torch.cat([one.token_attr for one in streamed])
    assert relative_error(together, expected) <= 1e-4


def test_they_are_captum_s_own() -> None:
    of = world("llava")
    inp = of.inp()
    ours = of.method(FeatureAblation).attribute(inp, target=TARGETS)
    captum_s = LLMAttribution(FeatureAblation(of.model), of.processor.tokenizer)
    theirs = captum_s.attribute(
        inp, target=torch.tensor(TARGETS), use_cached_outputs=False
    )
    assert relative_error(ours.token_attr, theirs.token_attr) <= 1e-4
    assert ours.input_tokens == theirs.input_tokens


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_segments_that_overlap(family: str) -> None:
    of = world(family)
    masks = [*masks_of(of.mask), torch.ones(40, 56, dtype=torch.bool)]
    inp = of.inp(mask_list=masks)
    result = of.method(FeatureAblation).attribute(inp, target=TARGETS)
    assert relative_error(result.token_attr, of.ablated(masks, TARGETS)) <= 1e-4
    expected = inp.format_pixel_attr(result.token_attr[1:2])[0]
    expected = expected / expected.abs().max()
    torch.testing.assert_close(result.pixel_map(1), expected)


def test_no_mask_is_one_segment() -> None:
    of = world("llava")
    result = of.method(FeatureAblation).attribute(of.inp(mask=None), target=TARGETS)
    everywhere = [torch.ones(40, 56, dtype=torch.bool)]
    assert relative_error(result.token_attr, of.ablated(everywhere, TARGETS)) <= 1e-4


def test_shapley_values_add_up() -> None:
    of = world("llava")
    exact = of.method(ShapleyValues).attribute(of.inp(), target=TARGETS).token_attr
    white = Image.new("RGB", of.image.size, (255, 255, 255))
    total = of.log_probs(of.image, TARGETS) - of.log_probs(white, TARGETS)
    assert relative_error(exact.sum(1), total) <= 1e-4


@pytest.mark.parametrize("method", [ShapleyValueSampling, KernelShap, Lime])
def test_estimates_are_captum_s_of_a_literal_function(method: Any) -> None:
    """With the same random draws."""
    of = world("llava")
    if method is not ShapleyValueSampling:
        pytest.importorskip("sklearn.linear_model", reason="Captum fits with it")

    def seeded(explain: Callable[[], Any]) -> Any:
        torch.manual_seed(0)
        np.random.seed(0)
        return explain()

    def literal(present: Tensor) -> Tensor:
        masks = masks_of(of.mask)
        pixels = np.array(of.image)
        for column, mask in enumerate(masks):
            if present[0, column] == 0:
                pixels[mask.numpy()] = 255
        return of.log_probs(Image.fromarray(pixels), TARGETS)[step : step + 1]

    # Captum's own penalty leaves nothing of small attributions.
    linear = {"interpretable_model": SkLearnLasso(alpha=1e-3)} if method is Lime else {}
    made = method(VLMForward(of.model), **linear)
    result = seeded(
        lambda: VLMAttribution(made, of.processor).attribute(
            of.inp(), target=TARGETS, n_samples=8
        )
    )
    for step in range(3):
        by_hand = method(literal, **linear)
        expected = seeded(lambda: by_hand.attribute(torch.ones(1, 4), n_samples=8))
        assert relative_error(result.token_attr[step], expected[0]) <= 1e-3


def test_a_contrast_is_a_difference_of_log_probabilities() -> None:
    of = world("llava")
    other = [7, 61, 40]
    result = of.method(FeatureAblation).attribute(
        of.inp(), target=TARGETS, contrast=other
    )
    # The contrast is asked for after the same answer.
    columns = []
    for step, token in enumerate(other):
        answer = [*TARGETS[:step], token]
        columns.append(of.ablated(masks_of(of.mask), answer)[step])
    expected = of.ablated(masks_of(of.mask), TARGETS) - torch.stack(columns)
    assert relative_error(result.token_attr, expected) <= 1e-4


def test_other_methods_explain_image_tokens() -> None:
    """A mask does not change what the model does, and so not their values."""
    of = world("llava")
    for method in (Saliency, LayerDexAR):
        made = VLMAttribution(method(VLMForward(of.model)), of.processor)
        masked = made.attribute(of.inp(), target=TARGETS)
        plain = made.attribute(of.plain, target=TARGETS)
        assert torch.equal(masked.token_attr, plain.token_attr)


def test_segments_need_no_processor() -> None:
    of = world("llava")
    without = VLMAttribution(FeatureAblation(VLMForward(of.model)))
    result = without.attribute(of.inp(), target=TARGETS)
    known = of.method(FeatureAblation).attribute(of.inp(), target=TARGETS)
    assert torch.equal(result.token_attr, known.token_attr)


def test_pixels_outside_a_crop_are_unseen() -> None:
    of = World("llava", llava_processor(CROP))
    result = of.method(FeatureAblation).attribute(of.inp(), target=TARGETS)
    tokens = of.plain.layout.token_of_pixel()
    assert torch.equal(result.unseen_pixels, tokens < 0) and (tokens < 0).any()
    assert (result.pixel_map(0)[tokens < 0] == 0).all()


def test_plots_show_the_segments() -> None:
    of = world("llava")
    result = of.method(FeatureAblation).attribute(
        of.inp(), target=TARGETS, contrast=[7, 61, 40]
    )
    assert result.is_signed
    expected = result.token_attr[1] / result.token_attr[1].abs().max()
    for column, mask in enumerate(masks_of(of.mask)):
        assert torch.allclose(result.pixel_map(1)[mask], expected[column])
        inside = of.inp().get_mask_list()[column]
        assert torch.equal(inside, result.inp.get_mask_list()[column])
    assert result.grid == (40, 56) and result.token_maps.shape == (3, 40, 56)
    _, axes = result.plot_tokens(words=False)
    drawn = axes.ravel()[2].images[0].get_array()
    for mask in masks_of(of.mask):
        # The image is uniform but for little noise: a segment has one colour.
        colours = drawn[mask.numpy()]
        assert colours.std(axis=0).max() < 0.1
    result.plot_sequence()
    _, axis = result.plot_image_heatmap(target_token_pos=1)
    heat = torch.tensor(axis.images[1].get_array())
    torch.testing.assert_close(
        heat, of.inp().format_pixel_attr(result.token_attr[1:2])[0]
    )
    matplotlib.pyplot.close("all")


def test_the_result_is_saved_and_read(tmp_path: Path) -> None:
    of = world("llava")
    masks = [*masks_of(of.mask), torch.ones(40, 56, dtype=torch.bool)]
    for inp in (of.inp(), of.inp(mask_list=masks)):
        result = of.method(FeatureAblation).attribute(inp, target=TARGETS)
        result.save(tmp_path / "answer.dexar")
        read = VLMAttributionResult.load(tmp_path / "answer.dexar")
        assert read == result
        maps: tuple[Any, Any] = (read.token_maps, result.token_maps)
        assert torch.equal(*maps)
        assert torch.equal(read.pixel_map(0), result.pixel_map(0))
        assert read.inp.values == result.input_tokens
        assert torch.equal(read.boxes, result.boxes)
    assert read != of.method(FeatureAblation).attribute(of.inp(), target=TARGETS)


def test_segments_that_can_t_be_perturbed_are_refused() -> None:
    of = world("llava")
    with pytest.raises(ValueError, match="segments of an ImageMaskInput form none"):
        of.method(Occlusion).attribute(of.inp(), target=TARGETS)
    with pytest.raises(ValueError, match="patches= are cut out of the original image"):
        of.method(FeatureAblation).attribute(of.inp(), TARGETS, patches=(2, 2))
    with pytest.raises(ValueError, match="must hold whole numbers"):
        fractions = of.inp(mask=of.mask / 100)
        of.method(FeatureAblation).attribute(fractions, target=TARGETS)
    grey = ImageMaskInput(
        of.image.convert("L"),
        mask=of.mask,
        processor_fn=lambda image: of.plain.processor_fn(image.convert("RGB")),
    )
    with pytest.raises(ValueError, match=r"image has mode 'L'.*convert\('RGB'\)"):
        of.method(FeatureAblation).attribute(grey, target=TARGETS)
