"""Which blocks of image tokens belong to an image whose size is not known."""

from typing import Any

import pytest
import torch
from captum_dexar.families import adapter_for_config
from captum_dexar.maps.layout import ImageLayout
from tests.families.cases.idefics3 import build
from tests.families.cases.lfm2_llama4 import lfm2_vl, llama4
from tests.helpers.tiny_models import IMAGE_TOKEN

GLOBAL, START, END = 50, 51, 52
BLOCK = [IMAGE_TOKEN] * 4
# A marker before each tile, and another before the small copy of the whole.
MARKED_IMAGE = [60, *BLOCK, 61, *BLOCK, GLOBAL, *BLOCK]
MARKED_SINGLE = [GLOBAL, *BLOCK]


def layout_of(model: Any, ids: list[int], **inputs: Any) -> ImageLayout:
    config = model.config
    return adapter_for_config(config).layout(
        {"input_ids": torch.tensor([ids]), **inputs},
        ids.count(IMAGE_TOKEN),
        image_sizes=None,
        config=config,
    )


def blocks_of_images(layout: ImageLayout) -> list[list[str]]:
    return [
        [view.name for view in layout.views if view.image == image]
        for image in range(layout.num_images)
    ]


@pytest.mark.parametrize("family", ["idefics3", "llama4"])
def test_the_mark_before_the_copy_ends_an_image(family: str) -> None:
    if family == "llama4":
        model, pixels = llama4(0, "sdpa"), torch.zeros(7, 3, 32, 32)
    else:
        model, pixels = build(family, 0, "sdpa"), torch.zeros(1, 7, 3, 32, 32)
    ids = [1, *MARKED_IMAGE, *MARKED_SINGLE, 9, *MARKED_IMAGE, 9]
    layout = layout_of(model, ids, pixel_values=pixels)
    split = ["tile", "tile", "global"]
    assert blocks_of_images(layout) == [split, ["full"], split]
    assert not layout.is_located and len(layout.placeless) == 0


def test_the_mark_behind_the_copy_ends_an_image_of_lfm2_vl() -> None:
    copy = [IMAGE_TOKEN] * 2
    image = [START, 60, *BLOCK, 61, *BLOCK, GLOBAL, *copy, END]
    ids = [1, *image, START, *BLOCK, END, *image, 9]
    tiled = [[4, 4], [4, 4], [2, 4]]
    shapes = torch.tensor([*tiled, [4, 4], *tiled])
    layout = layout_of(lfm2_vl(0, "sdpa"), ids, spatial_shapes=shapes)
    split = ["tile", "tile", "global"]
    assert blocks_of_images(layout) == [split, ["full"], split]
    assert [view.grid for view in layout.views][:4] == [(2, 2), (2, 2), (1, 2), (2, 2)]


def test_tokens_that_fill_no_block_are_refused() -> None:
    model = build("idefics3", 0, "sdpa")
    pixels = torch.zeros(1, 3, 3, 32, 32)
    with pytest.raises(ValueError, match="image tokens"):
        layout_of(model, [1, *MARKED_IMAGE, IMAGE_TOKEN, 9], pixel_values=pixels)
