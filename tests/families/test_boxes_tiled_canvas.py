"""LLaVA-NeXT and LLaVA-OneVision: boxes of the whole image and of its canvas."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from captum_dexar.families.geometry.canvas import centred_on_canvas
from captum_dexar.families.geometry.tiles import seen_part
from captum_dexar.maps.layout import View
from tests.families.cases import tiled_canvas
from tests.helpers.blocks import (
    Block,
    block_report,
    check,
    dark_image,
    overlap,
    painted,
    random_blocks,
    silence_vision_attention,
    unclipped_boxes,
    within_reach,
)
from tests.helpers.tile_processors import (
    llava_next_processor,
    llava_next_video_processor,
    llava_onevision_processor,
)
from torch import nn, Tensor

SHAPES = ((48, 48), (50, 71), (20, 80), (130, 33), (64, 64), (7, 5), (5, 12))
HUGE_SHAPES = ((1500, 400), (400, 1500), (700, 900))
PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava_next": llava_next_processor,
    "llava_next_video": llava_next_video_processor,
    "llava_onevision": llava_onevision_processor,
}


@lru_cache
def silent_model(variant: str) -> nn.Module:
    return silence_vision_attention(tiled_canvas.build(variant))


def features_by(model: Any) -> Callable[[Any], Tensor]:
    """All image tokens of the prompt, newlines included, as the model makes them."""

    def features(inputs: Any) -> Tensor:
        images = {
            name: inputs[name]
            for name in ("pixel_values", "image_sizes", "batch_num_images")
            if name in inputs
        }
        return torch.cat(list(model.get_image_features(**images).pooler_output))

    return features


@pytest.mark.parametrize("shape", SHAPES + HUGE_SHAPES, ids=str)
@pytest.mark.parametrize("variant", PROCESSORS)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    variant: str, shape: tuple[int, int]
) -> None:
    model = silent_model(variant)
    inp = ImagePromptInput(dark_image(*shape), "is", PROCESSORS[variant](), model)
    whole, canvas = inp.layout.views
    assert (whole.name, canvas.name) == ("global", "tile")
    report = block_report(inp, random_blocks(*shape, 10), features_by(model))
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()


@pytest.mark.parametrize("shape", [(50, 71), (20, 80), (130, 33)], ids=str)
@pytest.mark.parametrize("variant", PROCESSORS)
def test_a_newline_ends_every_row_and_sees_no_block(
    variant: str, shape: tuple[int, int]
) -> None:
    model = silent_model(variant)
    inp = ImagePromptInput(dark_image(*shape), "is", PROCESSORS[variant](), model)
    rows, columns = inp.layout.views[1].grid
    ends = [16 + row * (columns + 1) + columns for row in range(rows)]
    assert inp.layout.placeless.tolist() == ends
    features = features_by(model)(inp.to_model_input())
    newline = model.get_parameter("model.image_newline")
    is_newline = (features == newline).all(-1)
    assert is_newline.nonzero()[:, 0].tolist() == ends
    report = block_report(inp, random_blocks(*shape, 10), features_by(model))
    assert not report.changed[:, ends].any()


@pytest.mark.parametrize("shape", [(50, 71), (64, 64), (20, 80), (900, 300)], ids=str)
def test_centres_of_boxes_on_a_shrunk_canvas(shape: tuple[int, int]) -> None:
    """Each token mixes the two nearest rows and columns of the canvas, so that a block
    on the box's centre changes it, and none beyond two cells of the canvas does."""
    variant = "llava_onevision_shrunk"
    model = silent_model(variant)
    processor = llava_onevision_processor("anyres_max_1")
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    unshrunk = ImagePromptInput(
        dark_image(*shape), "is", llava_onevision_processor()
    ).layout.views[1]
    canvas = inp.layout.views[1]
    assert canvas.rectangle == unshrunk.rectangle
    assert canvas.num_tokens < 1.21 * 16 < unshrunk.num_tokens
    assert ImagePromptInput(dark_image(*shape), "is", processor).layout == inp.layout
    inside = centre_blocks(canvas, shape)
    report = block_report(inp, [block for _, block in inside], features_by(model))
    boxes, reaches = unclipped_boxes(inp.layout)
    mixed = torch.tensor(unshrunk.cell_size)
    for index, (token, block) in enumerate(inside):
        assert report.changed[index, canvas.start + token_index(canvas, token)]
        near = within_reach(boxes, reaches + 2 * mixed, block)
        changed = report.changed[index, inp.layout.placed]
        assert not (changed & ~near).any()
        assert not near.all()


def centre_blocks(view: View, shape: tuple[int, int]) -> list[tuple[int, Block]]:
    """Blocks on the centres of every other box."""
    blocks = []
    for token, box in enumerate(view.boxes(shape).tolist()):
        y, x = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        half = max(1, min(shape) // 40)
        top, left = max(0, int(y) - half), max(0, int(x) - half)
        if token % 2 == 0:
            blocks.append((token, (top, left, int(y) + half, int(x) + half)))
    return blocks


def token_index(view: View, token: int) -> int:
    """Counted from the view's first image token, newlines included."""
    return int(view.tokens[token]) - view.start


@pytest.mark.parametrize("shapes", [((30, 60), (60, 30)), ((90, 20), (48, 48))])
def test_several_images_of_a_prompt_are_padded_to_squares(
    shapes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    model = silent_model("llava_onevision")
    images = [dark_image(*shape, seed) for seed, shape in enumerate(shapes)]
    inp = ImagePromptInput(images, "is", llava_onevision_processor(), model)
    assert inp.layout.num_tokens == 2 * 17
    assert inp.layout.placeless.tolist() == [16, 33]
    features = features_by(model)
    before = features(inp.to_model_input())
    for index, shape in enumerate(shapes):
        layout, columns = inp.layout.of_image(index)
        boxes, reaches = unclipped_boxes(layout)
        own = inp.layout.placed[columns]
        for block in random_blocks(*shape, 6):
            changed_images = list(images)
            changed_images[index] = painted(images[index], block)
            difference = features(inp.processor_fn(changed_images)) - before
            changed = difference.abs().amax(-1) > 1e-5 * before.abs().max()
            assert changed[own][overlap(boxes, block)].all()
            assert not changed[own][~within_reach(boxes, reaches, block)].any()
            changed[own] = False
            assert not changed.any()


@pytest.mark.parametrize("variant", PROCESSORS)
def test_boxes_of_an_original_that_was_made_smaller_before(variant: str) -> None:
    """The inputs hold the size of what the processor was given."""
    model: Any = silent_model(variant)
    processor = PROCESSORS[variant]()
    inp = ImagePromptInput(dark_image(50, 71), "is", processor, model)
    layout = adapter_for_config(model.config).layout(
        inp.to_model_input(),
        inp.layout.num_tokens,
        image_sizes=[(100, 213)],
        config=model.config,
    )
    assert layout.views == tuple(view.scaled(2, 3) for view in inp.layout.views)


TILE, PATCH, SIDE = 36, 8, 4


def test_a_strip_of_a_tile_that_patches_do_not_fill_is_seen_by_no_token() -> None:
    pinpoints = [[TILE, TILE]]
    vision = {**tiled_canvas.VISION, "image_size": TILE}
    model: Any = silence_vision_attention(tiled_canvas.llava_next(vision)).eval()
    model.config.image_grid_pinpoints = pinpoints
    processor = llava_next_processor(TILE, PATCH)
    processor.image_processor.image_grid_pinpoints = pinpoints
    inp = ImagePromptInput(dark_image(72, 72), "is", processor, model)
    assert [view.rectangle for view in inp.layout.views] == [(0, 0, 64, 64)] * 2
    report = block_report(inp, random_blocks(72, 72, 40), features_by(model))
    check(report)
    unseen = ~report.changed.any(1)
    assert unseen.any() and not unseen.all()


def test_boxes_are_off_by_less_than_such_a_strip() -> None:
    seen = seen_part(SIDE, PATCH, TILE)
    canvas = [[2 * TILE, 3 * TILE]]
    grid, (y0, x0, y1, x1) = centred_on_canvas(
        (2 * TILE, 3 * TILE), canvas, TILE, SIDE, seen
    )
    assert grid == (2 * SIDE, 3 * SIDE)
    for start, stop, tiles in ((y0, y1, 2), (x0, x1, 3)):
        edges = torch.linspace(start, stop, tiles * SIDE + 1)
        first = torch.arange(tiles)[:, None] * TILE + torch.arange(SIDE) * PATCH
        assert edges[0] == 0 and edges[-1] == tiles * TILE - (TILE - SIDE * PATCH)
        assert ((edges[:-1] - first.flatten()).abs() < TILE - SIDE * PATCH).all()
