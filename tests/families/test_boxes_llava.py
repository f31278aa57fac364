"""Image tokens see exactly the pixels of their boxes, through the real processor."""

from collections.abc import Callable
from typing import Any

import pytest
from captum_dexar import ImagePromptInput
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    patch_features,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.processors import CROP, llava_processor, SETTINGS
from tests.helpers.tiny_models import NUM_IMAGE_TOKENS, tiny_vlm
from torch import nn, Tensor

SHAPES = ((48, 48), (64, 40), (33, 130), (130, 33), (31, 77), (7, 5), (5, 12))
HUGE_SHAPES = ((1500, 400), (400, 1500))


@pytest.fixture(scope="module", params=["llava", "vipllava"])
def silent_model(request: pytest.FixtureRequest) -> nn.Module:
    return silence_vision_attention(tiny_vlm(request.param))


def image_features(model: Any) -> Callable[[Any], Tensor]:
    return lambda inputs: model.get_image_features(
        inputs["pixel_values"]
    ).pooler_output[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("settings", ["crop", "pad", "stretch"])
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    silent_model: nn.Module, settings: str, shape: tuple[int, int]
) -> None:
    processor = llava_processor(SETTINGS[settings])
    inp = ImagePromptInput(dark_image(*shape), "is", processor, silent_model)
    blocks = random_blocks(*shape, 12)
    report = block_report(inp, blocks, image_features(silent_model))
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()


@pytest.mark.parametrize("shape", HUGE_SHAPES, ids=str)
@pytest.mark.parametrize("settings", ["crop", "pad", "stretch"])
def test_blocks_of_huge_images(settings: str, shape: tuple[int, int]) -> None:
    model = silence_vision_attention(tiny_vlm())
    inp = ImagePromptInput(
        dark_image(*shape), "is", llava_processor(SETTINGS[settings]), model
    )
    report = block_report(inp, random_blocks(*shape, 10), image_features(model))
    check(report)
    assert report.covering.any()


@pytest.mark.parametrize("shape", [(48, 64), (64, 48)], ids=str)
def test_a_class_token_sees_no_block(shape: tuple[int, int]) -> None:
    model: Any = silence_vision_attention(tiny_vlm())
    model.config.vision_feature_select_strategy = "full"
    processor = llava_processor(CROP, strategy="full")
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    assert inp.layout.num_tokens == NUM_IMAGE_TOKENS + 1
    assert inp.layout.placeless.tolist() == [0]
    report = block_report(inp, random_blocks(*shape, 12), image_features(model))
    check(report)
    assert report.covering.any()
    assert not report.changed[:, 0].any()


@pytest.mark.parametrize("shape", [(32, 160), (160, 32), (400, 130)], ids=str)
def test_blocks_outside_the_crop_change_no_token(
    silent_model: nn.Module, shape: tuple[int, int]
) -> None:
    processor = llava_processor(CROP)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, silent_model)
    blocks = random_blocks(*shape, 30)
    report = block_report(inp, blocks, image_features(silent_model))
    outside = ~report.reachable.any(1)
    assert outside.any() and not outside.all()
    assert not report.changed[outside].any()
    token_of_pixel = inp.layout.token_of_pixel()
    for index in outside.nonzero()[:, 0].tolist():
        y0, x0, y1, x1 = blocks[index]
        assert (token_of_pixel[y0:y1, x0:x1] == -1).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 32}, "do_center_crop": False},
        {"size": {"height": 40, "width": 24}, "do_center_crop": False},
        {"size": {"shortest_edge": 32, "longest_edge": 64}, "do_center_crop": False},
        {"size": {"max_height": 64, "max_width": 40}, "do_center_crop": False},
        # Crops larger than the image are padded with zeros.
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 48, "width": 48}},
        {"size": {"shortest_edge": 29}, "crop_size": {"height": 40, "width": 32}},
        # Rows and columns of pixels that fill no patch are seen by no token.
        {"size": {"shortest_edge": 37}, "crop_size": {"height": 35, "width": 37}},
        {"do_resize": False, "crop_size": {"height": 40, "width": 48}},
        {"do_resize": False, "do_center_crop": False, "do_pad": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(50, 71), (91, 48)], ids=str)
def test_blocks_change_patches_of_the_processed_image(
    settings: dict[str, Any], shape: tuple[int, int]
) -> None:
    """Any setting of the image processor, without a vision tower's fixed size."""
    inp = ImagePromptInput(dark_image(*shape), "is", llava_processor(settings))
    report = block_report(inp, random_blocks(*shape, 12), patch_features)
    check(report)
    assert report.covering.any()
