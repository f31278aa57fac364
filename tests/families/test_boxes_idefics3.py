"""Idefics3 and SmolVLM: tokens of tiles and of the copy see exactly their boxes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.idefics3 import build
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.idefics3_gemma_processors import idefics_processor, TILE
from torch import nn, Tensor

# A token stands for 2 x 2 patches. The image is resized up to three times (to its
# longest edge, to whole tiles, to the small copy), each time with a kernel of three
# pixels; the last shrinks it by two at least.
TOKEN_PIXELS = 16
SUPPORT = 6.0

SHAPES = ((48, 48), (30, 120), (120, 30), (70, 100), (7, 5), (401, 190), (900, 1400))


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def silent_model(variant: str) -> nn.Module:
    return silence_vision_attention(build(variant, 0, "sdpa"), "vision_model")


def image_features(model: Any) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        pixels, mask = inputs["pixel_values"], inputs["pixel_attention_mask"]
        # One tensor for each tile or for each image, by the version of transformers.
        return torch.cat(tuple(model.get_image_features(pixels, mask).pooler_output))

    return features


def checked(
    model: nn.Module, variant: str, shape: tuple[int, int], **settings: Any
) -> ImagePromptInput:
    processor = idefics_processor(variant, **settings)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    blocks = random_blocks(*shape, 10)
    report = block_report(inp, blocks, image_features(model), TOKEN_PIXELS, SUPPORT)
    check(report)
    assert report.covering.any(1).all(), "no token is said to see a block"
    assert not report.changed.all(1).all(), "every block reaches every token"
    return inp


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_tiles_and_the_whole(
    silent_model: nn.Module, variant: str, shape: tuple[int, int]
) -> None:
    inp = checked(silent_model, variant, shape)
    names = {view.name for view in inp.layout.views}
    assert names == {"tile", "global"}


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"do_image_splitting": False}, (48, 48)),
        ({"do_image_splitting": False}, (30, 120)),
        ({"do_image_splitting": False}, (900, 700)),
        ({"size": {"longest_edge": TILE}}, (48, 48)),
        ({"size": {"longest_edge": TILE}}, (900, 700)),
    ],
    ids=str,
)
def test_blocks_of_images_that_are_not_split(
    silent_model: nn.Module,
    variant: str,
    settings: dict[str, Any],
    shape: tuple[int, int],
) -> None:
    inp = checked(silent_model, variant, shape, **settings)
    assert [view.name for view in inp.layout.views] == ["full"]


@pytest.mark.parametrize("shape", [(31, 100), (100, 33), (51, 100)], ids=str)
def test_blocks_when_the_longest_edge_is_no_multiple_of_a_tile(
    silent_model: nn.Module, variant: str, shape: tuple[int, int]
) -> None:
    # Widening to whole tiles keeps the aspect ratio, which may need one more row than
    # get_number_of_image_patches of transformers counts.
    checked(silent_model, variant, shape, size={"longest_edge": 100})


@pytest.mark.parametrize("shape", [(36, 36), (30, 120), (401, 190)], ids=str)
@pytest.mark.parametrize(("tile", "knows_model"), [(37, True), (33, False)])
def test_blocks_when_patches_do_not_fill_a_tile(
    variant: str, tile: int, knows_model: bool, shape: tuple[int, int]
) -> None:
    model = silence_vision_attention(build(variant, 0, "sdpa", tile), "vision_model")
    processor = idefics_processor(
        variant, size={"longest_edge": 4 * tile}, max_image_size={"longest_edge": tile}
    )
    image = dark_image(*shape)
    inp = ImagePromptInput(image, "is", processor, model if knows_model else None)
    report = block_report(
        inp, random_blocks(*shape, 20), image_features(model), TOKEN_PIXELS, SUPPORT
    )
    check(report)
    assert report.covering.any()
    # Tokens of a tile end before the next tile begins.
    tiles = [view.rectangle for view in inp.layout.views if view.name == "tile"]
    assert tiles[0] is not None and tiles[1] is not None
    assert tiles[0][3] < tiles[1][1] or tiles[0][2] < tiles[1][0]


def test_without_the_size_the_grids_are_known(
    silent_model: nn.Module, variant: str
) -> None:
    images = [dark_image(60, 100), dark_image(90, 40)]
    inp = ImagePromptInput(images, "is", idefics_processor(variant), silent_model)
    assert len({(view.image, view.name) for view in inp.layout.views}) == 4
    config: Any = silent_model.config
    without = adapter_for_config(config).layout(
        inp.to_model_input(), inp.layout.num_tokens, image_sizes=None, config=config
    )
    assert not without.is_located
    assert _facts(without) == _facts(inp.layout)
    from_processor = adapter_for_config(config).layout(
        inp.to_model_input(),
        inp.layout.num_tokens,
        image_sizes=None,
        processor=idefics_processor(variant),
    )
    assert _facts(from_processor) == _facts(inp.layout)


def _facts(layout: Any) -> list[tuple[Any, ...]]:
    return [(view.name, view.grid, view.start, view.image) for view in layout.views]
