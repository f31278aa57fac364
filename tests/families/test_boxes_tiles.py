"""InternVL, Qianfan-OCR, Aya Vision, Cohere2 Vision, Ovis2: boxes of tiles, copies."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from captum_dexar.maps.layout import ImageLayout
from tests.families.cases import tiles
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.tile_processors import (
    aya_vision_processor,
    cohere2_vision_processor,
    internvl_processor,
    ovis2_processor,
    qianfan_ocr_processor,
)
from torch import nn, Tensor

SHAPES = ((48, 48), (50, 71), (20, 80), (130, 33), (64, 65), (7, 5), (5, 12))
HUGE_SHAPES = ((1500, 400), (400, 1500), (700, 900))
PROCESSORS: dict[str, Callable[..., Any]] = {
    "internvl": internvl_processor,
    "qianfan_ocr": qianfan_ocr_processor,
    "aya_vision": aya_vision_processor,
    "cohere2_vision": cohere2_vision_processor,
    "ovis2": ovis2_processor,
}
OUTPUTS = {
    "internvl": "attention.projection_layer",
    "qianfan_ocr": "attention.projection_layer",
    "aya_vision": "self_attn.out_proj",
    "cohere2_vision": "self_attn.out_proj",
    "ovis2": "attention.out_proj",
}


@lru_cache
def silent_model(variant: str) -> nn.Module:
    return silence_vision_attention(tiles.build(variant), output=OUTPUTS[variant])


def features_by(model: Any) -> Callable[[Any], Tensor]:
    return lambda inputs: model.get_image_features(
        inputs["pixel_values"]
    ).pooler_output.flatten(0, 1)


@pytest.mark.parametrize("shape", SHAPES + HUGE_SHAPES, ids=str)
@pytest.mark.parametrize("variant", PROCESSORS)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    variant: str, shape: tuple[int, int]
) -> None:
    model = silent_model(variant)
    inp = ImagePromptInput(dark_image(*shape), "is", PROCESSORS[variant](), model)
    report = block_report(inp, random_blocks(*shape, 10), features_by(model))
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()


@pytest.mark.parametrize(
    "settings",
    [
        {"max_patches": 1},
        {"max_patches": 3},
        {"min_patches": 4, "max_patches": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(50, 71), (130, 33)], ids=str)
@pytest.mark.parametrize("variant", PROCESSORS)
def test_blocks_whatever_the_number_of_tiles(
    variant: str, shape: tuple[int, int], settings: dict[str, int]
) -> None:
    model = silent_model(variant)
    processor = PROCESSORS[variant](**settings)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    tiles = [view for view in inp.layout.views if view.name != "global"]
    assert 1 <= len(tiles) <= settings["max_patches"]
    report = block_report(inp, random_blocks(*shape, 8), features_by(model))
    check(report)
    assert report.covering.any()


@pytest.mark.parametrize("shape", [(50, 71), (20, 80), (130, 33)], ids=str)
@pytest.mark.parametrize("covers_area", [True, False])
def test_both_ways_in_which_ovis2_chooses_tiles(
    covers_area: bool, shape: tuple[int, int]
) -> None:
    model = silent_model("ovis2")
    processor = ovis2_processor(use_covering_area_grid=covers_area)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    check(block_report(inp, random_blocks(*shape, 10), features_by(model)))


def test_an_image_that_is_not_cut_has_one_view() -> None:
    model = silent_model("ovis2")
    processor = ovis2_processor(crop_to_patches=False)
    inp = ImagePromptInput(dark_image(50, 71), "is", processor, model)
    assert [view.name for view in inp.layout.views] == ["full"]
    check(block_report(inp, random_blocks(50, 71, 10), features_by(model)))


@pytest.mark.parametrize("variant", PROCESSORS)
def test_order_of_the_tokens_inside_a_tile(variant: str) -> None:
    """A block of one tile's pixels changes one of its tokens: the one in whose place
    the block lies, counted row by row."""
    model = silent_model(variant)
    pixels = torch.full((3, 3, tiles.TILE, tiles.TILE), 0.1)
    before = features_by(model)({"pixel_values": pixels})
    for tile, token in ((0, 0), (1, 3), (1, 6), (2, 9), (2, 15)):
        row, column = divmod(token, tiles.SIDE)
        top, left = row * tiles.TOKEN_PIXELS, column * tiles.TOKEN_PIXELS
        painted = pixels.clone()
        painted[tile, :, top + 2 : top + 6, left + 2 : left + 6] = 2.0
        after = features_by(model)({"pixel_values": painted})
        changed = ((after - before).abs().amax(-1) > 1e-5).nonzero()[:, 0].tolist()
        assert changed == [tile * tiles.TOKENS_OF_TILE + token]


@pytest.mark.parametrize("variant", PROCESSORS)
def test_without_the_original_image_the_grids_are_known(variant: str) -> None:
    config: Any = silent_model(variant).config
    inputs = tiles.inputs(variant, 0, 3)
    num_tokens = 3 * tiles.TOKENS_OF_TILE
    layout = adapter_for_config(config).layout(
        inputs, num_tokens, image_sizes=None, config=config
    )
    names = ["tile", "tile", "global"]
    assert [view.name for view in layout.views] == (
        names[::-1] if variant == "ovis2" else names
    )
    assert {view.grid for view in layout.views} == {(tiles.SIDE, tiles.SIDE)}
    assert not layout.is_located and layout.num_images == 1


@pytest.mark.parametrize("variant", PROCESSORS)
def test_the_processor_knows_as_much_as_the_configuration(variant: str) -> None:
    image = dark_image(50, 71)
    processor = PROCESSORS[variant]()
    by_config = ImagePromptInput(image, "is", processor, silent_model(variant))
    by_processor = ImagePromptInput(image, "is", processor)
    assert by_processor.layout == by_config.layout


def layout_of_tiles(num_tiles: int) -> ImageLayout:
    config: Any = silent_model("internvl").config
    pixels = torch.zeros(num_tiles, 3, tiles.TILE, tiles.TILE)
    return adapter_for_config(config).layout(
        {"pixel_values": pixels},
        num_tiles * tiles.TOKENS_OF_TILE,
        image_sizes=None,
        config=config,
    )


def test_a_tile_and_a_copy_are_two_images() -> None:
    assert layout_of_tiles(1).num_images == 1
    assert layout_of_tiles(2).num_images == 2
    assert layout_of_tiles(5).num_images == 1
