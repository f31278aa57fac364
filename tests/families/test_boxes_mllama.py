"""Mllama's patches see exactly the pixels of their boxes, through its processor."""

from typing import Any

import pytest
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.cross_attention import (
    build_mllama,
    KEYS_PER_TILE,
    MAX_TILES,
    mllama_inputs,
    ONE_TILE,
    THREE_IN_A_ROW,
)
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.plain_prompt_processors import mllama_processor
from torch import nn, Tensor

# With the rows and columns of tiles that they are cut into.
SHAPES = {
    (24, 24): (1, 1),
    (48, 40): (2, 2),
    (33, 130): (1, 4),
    (130, 33): (4, 1),
    (40, 70): (2, 2),
    (24, 60): (1, 3),
    (7, 5): (1, 1),
    (5, 12): (1, 1),
    (1500, 400): (4, 1),
    (400, 1500): (1, 4),
}
BILINEAR_SUPPORT = 1.0


@pytest.fixture(scope="module", name="silent_model")
def _silent_model() -> nn.Module:
    return silence_vision_attention(
        build_mllama(0, "sdpa"), "vision_model", "self_attn.o_proj"
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    silent_model: Any, shape: tuple[int, int]
) -> None:
    def features(inputs: Any) -> Tensor:
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        seen = silent_model.model.vision_model(**{name: inputs[name] for name in names})
        keys: Tensor = seen.last_hidden_state
        return keys.flatten(0, -2)

    inp = ImagePromptInput(dark_image(*shape), "what", mllama_processor(), silent_model)
    rows, columns = SHAPES[shape]
    assert len(inp.layout.views) == rows * columns
    first_of_each_row = [view.rectangle[0] for view in inp.layout.views[::columns]]
    assert sorted(set(first_of_each_row)) == first_of_each_row
    assert len(first_of_each_row) == rows
    report = block_report(
        inp, random_blocks(*shape, 10), features, support=BILINEAR_SUPPORT
    )
    assert report.changed.shape[1] == MAX_TILES * KEYS_PER_TILE
    check(report)
    assert report.covering.any()


def test_class_tokens_and_unused_tiles_have_no_place() -> None:
    config = build_mllama(0, "sdpa").config
    layout = adapter_for_config(config).layout(
        mllama_inputs(0, 2, ratios=(THREE_IN_A_ROW, ONE_TILE)),
        2 * MAX_TILES * KEYS_PER_TILE,
        image_sizes=None,
        config=config,
    )
    first, second = range(40), range(40, 80)
    used = [*first[:30], *second[:10]]
    places = [key for key in used if key % KEYS_PER_TILE]
    assert layout.placed.tolist() == places
    assert layout.num_images == 2 and not layout.is_located


def test_images_of_a_batch_that_are_cut_differently_are_refused() -> None:
    model = build_mllama(0, "sdpa")
    inputs = mllama_inputs(0, 2)
    inputs["aspect_ratio_ids"] = inputs["aspect_ratio_ids"].new_tensor([[1], [3]])
    with pytest.raises(ValueError, match="cut into the same tiles"):
        adapter_for_config(model.config).layout(
            inputs, 40, image_sizes=None, config=model.config
        )


def test_the_processor_alone_does_not_know_the_patches() -> None:
    with pytest.raises(ValueError, match="Pass the model too"):
        ImagePromptInput(dark_image(30, 30), "what", mllama_processor())
