"""Gemma 3 (with pan and scan) and Gemma 4: tokens see exactly their boxes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.gemma import gemma3, gemma4
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.idefics3_gemma_processors import gemma3_processor, gemma4_processor
from torch import nn, Tensor

BILINEAR_SUPPORT = 1.0
SHAPES = ((48, 48), (30, 120), (120, 30), (70, 100), (7, 5), (401, 190), (900, 1400))


@pytest.fixture(scope="module")
def silent_gemma3() -> nn.Module:
    return silence_vision_attention(gemma3(0, "sdpa"))


@pytest.fixture(scope="module")
def silent_gemma4() -> nn.Module:
    model = gemma4("gemma4", 0, "sdpa")
    return silence_vision_attention(model, output="self_attn.o_proj.linear")


def gemma3_features(model: Any) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        every = model.get_image_features(inputs["pixel_values"]).pooler_output
        return torch.flatten(every, 0, 1)

    return features


def gemma4_features(model: Any) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        pixels, places = inputs["pixel_values"], inputs["image_position_ids"]
        return torch.cat(model.get_image_features(pixels, places).pooler_output)

    return features


def checked(
    inp: ImagePromptInput, features: Callable[[Any], Tensor], **reach: Any
) -> None:
    blocks = random_blocks(inp.image.height, inp.image.width, 10)
    report = block_report(inp, blocks, features, **reach)
    check(report)
    assert report.covering.any(1).all(), "no token is said to see a block"
    assert not report.changed.all(1).any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gemma3(silent_gemma3: nn.Module, shape: tuple[int, int]) -> None:
    inp = ImagePromptInput(dark_image(*shape), "is", gemma3_processor(), silent_gemma3)
    checked(inp, gemma3_features(silent_gemma3), support=BILINEAR_SUPPORT)
    assert [view.name for view in inp.layout.views] == ["full"]


@pytest.mark.parametrize(
    ("shape", "num_crops"),
    [
        ((48, 48), 0),
        ((30, 41), 2),
        ((30, 100), 3),
        ((101, 30), 3),
        ((25, 230), 4),
        ((1000, 251), 4),
        ((5, 20), 0),
    ],
    ids=str,
)
def test_gemma3_pan_and_scan(
    silent_gemma3: nn.Module, shape: tuple[int, int], num_crops: int
) -> None:
    processor = gemma3_processor(pan_and_scan=True)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, silent_gemma3)
    assert [v.name for v in inp.layout.views] == ["full"] + ["crop"] * num_crops
    checked(inp, gemma3_features(silent_gemma3), support=BILINEAR_SUPPORT)


@pytest.mark.parametrize("first", [(30, 100), (48, 48)], ids=str)
def test_gemma3_pan_and_scan_of_two_images(
    silent_gemma3: nn.Module, first: tuple[int, int]
) -> None:
    processor = gemma3_processor(pan_and_scan=True)
    images = [dark_image(*first), dark_image(130, 40)]
    both = ImagePromptInput(images, "is", processor, silent_gemma3)
    start = 0
    for index, image in enumerate(images):
        single = ImagePromptInput(image, "is", processor, silent_gemma3)
        ours = [view for view in both.layout.views if view.image == index]
        assert [(v.name, v.grid, v.rectangle) for v in ours] == [
            (v.name, v.grid, v.rectangle) for v in single.layout.views
        ]
        assert ours[0].start == start
        start += single.layout.num_tokens
    assert both.layout.num_tokens == start


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gemma4(silent_gemma4: nn.Module, shape: tuple[int, int]) -> None:
    inp = ImagePromptInput(dark_image(*shape), "is", gemma4_processor(), silent_gemma4)
    checked(inp, gemma4_features(silent_gemma4))
    rows, columns = inp.layout.views[0].grid
    assert (rows > columns) == (shape[0] > shape[1]) or rows == columns


@pytest.mark.parametrize("family", ["gemma3", "gemma4"])
def test_without_the_size_the_grids_are_known(
    family: str, silent_gemma3: nn.Module, silent_gemma4: nn.Module
) -> None:
    model = silent_gemma3 if family == "gemma3" else silent_gemma4
    processor = gemma3_processor() if family == "gemma3" else gemma4_processor()
    images = [dark_image(60, 100), dark_image(90, 40)]
    inp = ImagePromptInput(images, "is", processor, model)
    config: Any = model.config
    for known in ({"config": config}, {"processor": processor}):
        without = adapter_for_config(config).layout(
            inp.to_model_input(), inp.layout.num_tokens, image_sizes=None, **known
        )
        assert not without.is_located
        assert [(v.grid, v.start, v.image) for v in without.views] == [
            (v.grid, v.start, v.image) for v in inp.layout.views
        ]
