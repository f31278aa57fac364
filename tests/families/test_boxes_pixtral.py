"""Image tokens of Pixtral and Mistral 3 see the pixels of their boxes.

Their processor can't be built without torchvision, so that the image processor is run
by itself; the prompt is checked in ``test_prompts_grid_thw``.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar.families import adapter_for_config
from captum_dexar.maps.image_tokens import ImageTokenInput
from tests.families.cases.pixtral import build, MERGE, PATCH
from tests.helpers.blocks import (
    block_report,
    BlockReport,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from torch import Tensor
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil,
)

FAMILIES = ("pixtral", "mistral3")
# Mistral 3 fails on an image of a single token, so the smallest have two.
SHAPES = ((48, 48), (64, 40), (33, 130), (130, 33), (80, 20), (5, 20), (18, 6))
HUGE_SHAPES = ((1500, 400), (400, 1500))
LONGEST = 112


@lru_cache(maxsize=1)
def silent_model(family: str) -> Any:
    return silence_vision_attention(build(family), output="attention.o_proj")


def image_features(model: Any) -> Callable[[Any], Tensor]:
    return lambda inputs: torch.cat(
        tuple(
            model.get_image_features(
                pixel_values=inputs["pixel_values"],
                image_sizes=inputs["image_sizes"],
                vision_feature_layer=-1,
            ).pooler_output
        )
    )


def report_of(family: str, shape: tuple[int, int], **settings: Any) -> BlockReport:
    model, image = silent_model(family), dark_image(*shape)
    side = PATCH * MERGE[family]
    image_processor = PixtralImageProcessorPil(
        size={"longest_edge": LONGEST},
        patch_size={"height": side, "width": side},
        **settings,
    )
    features = image_features(model)
    inputs = image_processor(image, return_tensors="pt")
    layout = adapter_for_config(model.config).layout(
        inputs,
        len(features(inputs)),
        image_sizes=[shape],
        processor=image_processor,
        config=model.config,
    )
    inp = ImageTokenInput(
        [image], layout, lambda image: image_processor(image, return_tensors="pt")
    )
    return block_report(inp, random_blocks(*shape, 10), features, side)


@pytest.mark.parametrize("shape", SHAPES + HUGE_SHAPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    family: str, shape: tuple[int, int]
) -> None:
    report = report_of(family, shape)
    check(report)
    assert report.covering.any(1).all()
    assert not report.changed.all()


@pytest.mark.parametrize("shape", [(48, 64), (75, 100)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_images_that_are_not_resized(
    family: str, shape: tuple[int, int]
) -> None:
    """Rows and columns of pixels that fill no patch are seen by no token."""
    report = report_of(family, shape, do_resize=False)
    check(report)
    assert torch.equal(report.covering, report.changed)
    assert report.covering.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_of_two_images_belong_to_the_tokens_that_notice_them(
    family: str,
) -> None:
    """The smaller image is padded: there, a pixel belongs to no token."""
    model, side = silent_model(family), PATCH * MERGE[family]
    image_processor = PixtralImageProcessorPil(
        size={"longest_edge": LONGEST}, patch_size={"height": side, "width": side}
    )
    images = [dark_image(48, 96), dark_image(80, 40)]
    inputs = dict(image_processor(images, return_tensors="pt"))
    features, adapter = image_features(model), adapter_for_config(model.config)
    with torch.no_grad():
        plain = features(inputs)
    layout = adapter.layout(inputs, len(plain), image_sizes=None, config=model.config)
    assert [view.image for view in layout.views] == [0, 1]
    token = adapter.token_of_pixel_input(inputs, layout, model.config)
    height, width = inputs["pixel_values"].shape[-2:]
    found = set()
    for index in range(2):
        for y, x in itertools.product(range(3, height, 19), range(5, width, 23)):
            pixels = inputs["pixel_values"].clone()
            pixels[index, :, y, x] += 3.0
            with torch.no_grad():
                changed = features({**inputs, "pixel_values": pixels}) - plain
            noticed = changed.abs().amax(1) > 1e-5 * plain.abs().max()
            expected = int(token[index, 0, y, x])
            assert noticed.nonzero()[:, 0].tolist() == (
                [expected] if expected >= 0 else []
            )
            found.add(expected)
    assert -1 in found and len(found) > 10
