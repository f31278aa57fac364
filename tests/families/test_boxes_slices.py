"""Slices, two grids and line breaks: tokens see the pixels of their boxes."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs.prompt import read_prompt
from captum_dexar.maps.layout import ImageLayout
from tests.helpers.blocks import (
    Block,
    block_report,
    check,
    dark_image,
    random_blocks,
    unclipped_boxes,
)
from tests.helpers.slice_families import FAMILIES
from torch import nn, Tensor

SHAPES = (
    (48, 48),
    (30, 120),
    (120, 30),
    (70, 100),
    (33, 31),
    (7, 5),
    (1, 50),
    (500, 10),
    (401, 190),
    (900, 1400),
)
# Its image processor can't tell the axes of an image of a single row.
TOO_THIN = {"emu3": ((1, 50),)}
# Its image processor shrinks images without a wider kernel: some pixels are skipped.
SKIPS_PIXELS = ("molmo2",)
# Its image processor is of an older kind, whose calls are not seen: the places are
# measured.
IS_MEASURED = ("emu3",)
every_family = pytest.mark.parametrize("name", FAMILIES)


@lru_cache(maxsize=2)
def model_of(name: str) -> nn.Module:
    return FAMILIES[name].model()


def facts(layout: ImageLayout) -> list[tuple[Any, ...]]:
    return [(view.grid, view.start, view.image) for view in layout.views]


def surely_sampled(
    layout: ImageLayout, blocks: list[Block], token_pixels: int
) -> Tensor:
    """Whether a token's box has in common with a block as much as a pixel of the
    processed image stands for, ``(blocks, image tokens)``."""
    boxes, _ = unclipped_boxes(layout, token_pixels)
    pixel = (boxes[:, 2:] - boxes[:, :2]) / token_pixels
    sampled = torch.zeros(len(blocks), layout.num_tokens, dtype=torch.bool)
    for index, block in enumerate(torch.tensor(blocks)):
        common = torch.minimum(boxes[:, 2:], block[2:])
        common -= torch.maximum(boxes[:, :2], block[:2])
        sampled[index, layout.placed] = (common >= pixel).all(1)
    return sampled


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_family
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    name: str, shape: tuple[int, int]
) -> None:
    if shape in TOO_THIN.get(name, ()):
        pytest.skip("the image processor refuses such an image")
    family, model = FAMILIES[name], model_of(name)
    processor = family.processor()
    inp = ImagePromptInput(dark_image(*shape), "what is", processor, model)
    blocks = random_blocks(*shape, 10)
    report = block_report(
        inp,
        blocks,
        family.features(model),
        family.token_pixels,
        family.support,
    )
    assert report.changed.shape[1] == inp.layout.num_tokens
    assert report.covering.any(1).all(), "no token is said to see a block"
    if name in SKIPS_PIXELS:
        sampled = surely_sampled(inp.layout, blocks, family.token_pixels)
        report = replace(report, covering=report.covering & sampled)
    check(report)
    assert not report.changed[:, inp.layout.placeless].any()
    by_processor = ImagePromptInput(dark_image(*shape), "what is", processor)
    assert by_processor.layout == inp.layout


@every_family
def test_every_way_in_knows_the_places(name: str) -> None:
    model, processor = model_of(name), FAMILIES[name].processor()
    image = dark_image(70, 100)
    inp = ImagePromptInput(image, "what is", processor, model)
    assert inp.places.are_certain or name in IS_MEASURED
    captum = ImageMaskInput(image, processor_fn=inp.processor_fn)
    assert read_prompt(captum, model, processor).layout == inp.layout
    plain = read_prompt(inp.to_model_input(), model, None).layout
    assert facts(plain) == facts(inp.layout) and not plain.is_located


@every_family
def test_two_images_of_their_own_shapes(name: str) -> None:
    model, processor = model_of(name), FAMILIES[name].processor()
    config: Any = model.config
    images = [dark_image(20, 20), dark_image(120, 30), dark_image(33, 70, seed=1)]
    inp = ImagePromptInput(images, "what is", processor, model)
    assert inp.layout.num_images == 3
    for index, image in enumerate(images):
        alone = ImagePromptInput(image, "what is", processor, model).layout
        ours, _ = inp.layout.of_image(index)
        assert [view.rectangle for view in ours.views] == [
            view.rectangle for view in alone.views
        ]
        assert len(ours.placed) == len(alone.placed)
    unknown = adapter_for_config(config).layout(
        inp.to_model_input(), inp.layout.num_tokens, image_sizes=None, config=config
    )
    assert facts(unknown) == facts(inp.layout)
    method = VLMAttribution(LayerDexAR(model), processor)
    result = method.attribute(inp, target=[20, 30])
    assert result.token_attr.shape == (2, len(inp.layout.placed))
    assert torch.isfinite(result.token_attr).all()
