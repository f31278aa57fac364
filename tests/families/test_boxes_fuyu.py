"""Fuyu's tokens see exactly the pixels of their boxes, through its processor."""

from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.early_fusion import build_fuyu, FUYU_GRID, fuyu_inputs
from tests.helpers.blocks import block_report, check, dark_image, random_blocks
from tests.helpers.plain_prompt_processors import fuyu_processor
from torch import nn, Tensor

# With the grid of 6 x 6 patches that they fill, shrunk to 60 x 72 pixels if larger.
SHAPES = {
    (48, 48): (8, 8),
    (60, 72): (10, 12),
    (61, 72): (10, 12),
    (33, 130): (3, 12),
    (130, 33): (10, 3),
    (7, 5): (2, 1),
    (5, 12): (1, 2),
    (1500, 400): (10, 3),
    (400, 1500): (4, 12),
}
BILINEAR_SUPPORT = 1.0


@pytest.fixture(scope="module", name="model")
def _model() -> nn.Module:
    return build_fuyu(0, "sdpa")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    model: Any, shape: tuple[int, int]
) -> None:
    def features(inputs: Any) -> Tensor:
        tokens: Tensor = model.model.vision_embed_tokens(inputs["pixel_values"])
        return tokens

    inp = ImagePromptInput(dark_image(*shape), "what", fuyu_processor(), model)
    assert inp.layout.views[0].grid == SHAPES[shape]
    report = block_report(
        inp, random_blocks(*shape, 10), features, 6, support=BILINEAR_SUPPORT
    )
    check(report)
    assert report.covering.any()
    without_model = ImagePromptInput(dark_image(*shape), "what", fuyu_processor())
    assert without_model.layout == inp.layout


def test_the_grid_is_known_from_the_newlines(model: Any) -> None:
    adapter = adapter_for_config(model.config)
    inputs = fuyu_inputs(0, 4)
    count = FUYU_GRID[0] * FUYU_GRID[1]
    layout = adapter.layout(inputs, count, image_sizes=None, config=model.config)
    assert layout.views[0].grid == FUYU_GRID
    assert layout.boxes() is None
    other = inputs["input_ids"].clone()
    is_image = other == model.config.image_token_id
    other[is_image] = model.config.image_token_id - 1
    other[0, : is_image.sum()] = model.config.image_token_id
    inputs["input_ids"] = torch.cat([inputs["input_ids"], other])
    with pytest.raises(ValueError, match="the same grid of patches"):
        adapter.layout(inputs, count, image_sizes=None, config=model.config)
