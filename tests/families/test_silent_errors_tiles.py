"""Mistakes that raise no error: each gives a result that differs by far."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_processor
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.layers import hidden_of
from captum_dexar.model.logit_lens import LogitLens
from tests.families.cases import tiled_canvas, tiles
from tests.families.test_boxes_tiled_canvas import features_by as canvas_features
from tests.families.test_boxes_tiles import features_by, OUTPUTS
from tests.helpers.blocks import (
    block_report,
    BlockReport,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.explained import explained, relative_error
from tests.helpers.tile_processors import (
    aya_vision_processor,
    cohere2_vision_processor,
    internvl_processor,
    llava_next_processor,
    ovis2_processor,
)
from torch import nn, Tensor

COHERE = ("aya_vision", "cohere2_vision")
PROCESSORS: dict[str, Callable[..., Any]] = {
    "internvl": internvl_processor,
    "aya_vision": aya_vision_processor,
    "cohere2_vision": cohere2_vision_processor,
    "ovis2": ovis2_processor,
}


@lru_cache
def silent_model(variant: str) -> nn.Module:
    return silence_vision_attention(tiles.build(variant), output=OUTPUTS[variant])


def share_missed(report: BlockReport) -> float:
    """The share of tokens that do not notice a block within their box."""
    missed = report.covering & ~report.changed
    return float(missed.sum() / report.covering.sum())


def with_layout(inp: ImagePromptInput, views: tuple[View, ...]) -> ImagePromptInput:
    inp.layout = ImageLayout(inp.layout.num_tokens, views, inp.layout.image_sizes)
    return inp


@pytest.mark.parametrize("variant", COHERE)
def test_a_declared_logit_scale_is_not_applied(variant: str) -> None:
    model: Any = tiles.build(variant)
    scale = model.config.text_config.logit_scale
    assert scale == 0.25
    inputs = tiles.inputs(variant, 0, 3)
    targets = torch.tensor([[10, 20]])
    decoder = find_decoder(model)
    kept: list[Tensor] = []
    hook = decoder.layers[-1].register_forward_hook(
        lambda module, args, output: kept.append(hidden_of(output)[:, -1:])
    )
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1:]
    hook.remove()
    theirs = logits[..., targets[0, :1]][..., 0]
    ours = LogitLens(decoder, targets[:, :1]).read(kept[0]).detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert relative_error(scale * ours, theirs) > 0.5

    result = explained(model, inputs, targets)
    first = logits.log_softmax(-1)[0, 0, 10]
    torch.testing.assert_close(result.token_log_probs[0, 0], first)
    scaled = (scale * logits).log_softmax(-1)[0, 0, 10]
    assert (result.token_log_probs[0, 0] - scaled).abs() > 0.05


@pytest.mark.parametrize("variant", COHERE)
def test_what_a_logit_scale_would_do_to_the_maps(variant: str) -> None:
    inputs, targets = tiles.inputs(variant, 0, 3), torch.tensor([[10, 20]])
    model: Any = tiles.build(variant)
    plain = explained(model, inputs, targets)
    model.config.text_config.logit_scale = 7.0
    same = explained(model, inputs, targets)
    assert torch.equal(same.token_attr, plain.token_attr)
    scaled_model: Any = tiles.build(variant)
    scaled_model.lm_head.weight = nn.Parameter(0.25 * scaled_model.lm_head.weight)
    scaled = explained(scaled_model, inputs, targets)
    # Maps are products of two gradients.
    assert relative_error(scaled.token_attr, plain.token_attr / 16) < 1e-5
    assert relative_error(scaled.token_attr, plain.token_attr) > 0.9


@pytest.mark.parametrize("variant", PROCESSORS)
def test_rows_and_columns_of_tiles_are_not_among_the_inputs(variant: str) -> None:
    """A tall and a wide image give inputs of the same shape, with different places."""
    model, processor = silent_model(variant), PROCESSORS[variant]()
    tall, wide = (
        ImagePromptInput(dark_image(*shape), "is", processor, model)
        for shape in ((192, 64), (64, 192))
    )
    shapes = [
        {name: value.shape for name, value in inp.to_model_input().items()}
        for inp in (tall, wide)
    ]
    assert shapes[0] == shapes[1]
    assert set(shapes[0]) == {"input_ids", "attention_mask", "pixel_values"}
    blocks = random_blocks(192, 64, 12)
    right = block_report(tall, blocks, features_by(model))
    assert share_missed(right) == 0
    height, width = 192 / 64, 64 / 192
    turned = tuple(view.scaled(height, width) for view in wide.layout.views)
    wrong = block_report(with_layout(tall, turned), blocks, features_by(model))
    assert share_missed(wrong) > 0.2


@pytest.mark.parametrize("variant", PROCESSORS)
def test_the_copy_of_the_whole_is_at_the_right_end(variant: str) -> None:
    model, processor = silent_model(variant), PROCESSORS[variant]()
    inp = ImagePromptInput(dark_image(50, 150), "is", processor, model)
    blocks = random_blocks(50, 150, 12)
    assert share_missed(block_report(inp, blocks, features_by(model))) == 0
    views = inp.layout.views
    is_first = views[0].name == "global"
    assert is_first == (variant == "ovis2")
    places = [(view.name, view.rectangle) for view in views]
    places = places[1:] + places[:1] if is_first else places[-1:] + places[:-1]
    moved = tuple(
        replace(view, name=name, rectangle=rectangle)
        for view, (name, rectangle) in zip(views, places)
    )
    wrong = block_report(with_layout(inp, moved), blocks, features_by(model))
    assert share_missed(wrong) > 0.2


@pytest.mark.parametrize("variant", ["internvl", "aya_vision"])
def test_the_processor_cuts_what_its_image_processor_would_not(variant: str) -> None:
    processor = PROCESSORS[variant]()
    image_processor = processor.image_processor
    assert not image_processor.crop_to_patches
    assert image_processor.get_number_of_image_patches(50, 71) == 1
    inp = ImagePromptInput(dark_image(50, 71), "is", processor)
    assert len(inp.layout.views) == len(inp.to_model_input()["pixel_values"]) == 7


def test_ovis2_has_two_ids_for_images() -> None:
    """The processor's is that of the placeholder, which is no longer in the prompt."""
    processor = ovis2_processor()
    inp = ImagePromptInput(dark_image(50, 71), "is", processor)
    input_ids = inp.to_model_input()["input_ids"]
    assert not (input_ids == processor.image_token_id).any()
    ours = adapter_for_processor(processor).image_token_id(processor)
    assert ours == tiles.ovis2().config.image_token_id
    assert (input_ids == ours).sum() == inp.layout.num_tokens > 0


def test_ovis2_cuts_a_wide_image_into_rows() -> None:
    """Its covering grid is chosen as rows and columns, and read as columns and rows;
    code that computes it again must do the same."""
    model = silent_model("ovis2")
    inp = ImagePromptInput(dark_image(20, 80), "is", ovis2_processor(), model)
    tiles = [view.rectangle for view in inp.layout.views if view.name == "tile"]
    assert tiles == [(row * 20 / 3, 0, (row + 1) * 20 / 3, 80) for row in range(3)]
    blocks = random_blocks(20, 80, 12)
    assert share_missed(block_report(inp, blocks, features_by(model))) == 0
    whole, *rows = inp.layout.views
    columns = [
        replace(view, rectangle=(0, 80 * index / 3, 20, 80 * (index + 1) / 3))
        for index, view in enumerate(rows)
    ]
    put_right = with_layout(inp, (whole, *columns))
    wrong = block_report(put_right, blocks, features_by(model))
    assert share_missed(wrong) > 0.2


def test_newlines_taken_for_cells_shift_every_row() -> None:
    model: Any = silence_vision_attention(tiled_canvas.build("llava_next"))
    inp = ImagePromptInput(dark_image(50, 71), "is", llava_next_processor(), model)
    blocks = random_blocks(50, 71, 12)
    assert share_missed(block_report(inp, blocks, canvas_features(model))) == 0
    whole, canvas = inp.layout.views
    rows, columns = canvas.grid
    with_newlines = replace(canvas, grid=(rows, columns + 1), row_stride=None)
    wrong = with_layout(inp, (whole, with_newlines))
    assert len(wrong.layout.placeless) == 0
    assert share_missed(block_report(wrong, blocks, canvas_features(model))) > 0.1
    # Nor is it right to go on without a gap where the newlines stand.
    dense = with_layout(inp, (whole, replace(canvas, row_stride=None)))
    assert share_missed(block_report(dense, blocks, canvas_features(model))) > 0.1
