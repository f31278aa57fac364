"""Image tokens in blocks with text between them: tiles and a copy of the image."""

from collections.abc import Sequence
from typing import Any

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import Size, View
from PIL import Image
from torch import Tensor


def in_sequence(views: Sequence[View]) -> ImageTokens:
    """The image tokens of several views, one view after the other."""
    placed, start = [], 0
    for view in views:
        placed.append(View(view.name, view.grid, view.rectangle, start))
        start += view.num_tokens
    return ImageTokens(start, tuple(placed))


def unplaced_blocks(grids: Sequence[Size], last: str) -> ImageTokens:
    """The blocks of one image, of which only the grids are known.

    Args:
        grids (sequence of tuple of int): the grid of each block
        last (str): name of the last of several blocks; a single one is ``"full"``
    """
    if len(grids) == 1:
        return in_sequence([View("full", grids[0], None)])
    tiles = [View("tile", grid, None) for grid in grids[:-1]]
    return in_sequence([*tiles, View(last, grids[-1], None)])


def blank_processed(
    image: PreparedImage, color: str = "black", **settings: Any
) -> dict[str, Any]:
    """The image processor's output for a blank image of the original's size.

    Most image processors do not return the number of tiles, which depends on the size
    alone.
    """
    assert image.size is not None
    height, width = image.size
    blank = Image.new("RGB", (width, height), color)
    return dict(image.image_processor(blank, return_tensors="pt", **settings))


def num_blocks(
    adapter: FamilyAdapter, image: PreparedImage, lengths: Sequence[int], offset: int
) -> int:
    """The number of blocks of the next image, when its size is not known.

    The token next to an image's last block (the marker of the copy of the whole image,
    or of the image's end) is the same for all images, and is next to no other block.

    Args:
        adapter (FamilyAdapter): knows the id of image tokens
        image (PreparedImage): the image
        lengths (sequence of int): image tokens of each of the remaining blocks
        offset (int): where the marker is: 1 for the token after a block, -1 for the one
            before it
    """
    markers = _markers(adapter, image, lengths, offset)
    if markers is None:
        return max(len(lengths), 1)
    return int((markers == markers[-1]).nonzero()[0, 0]) + 1


def num_blocks_from_first(
    adapter: FamilyAdapter, image: PreparedImage, lengths: Sequence[int]
) -> int:
    """As :func:`num_blocks`, where an image's first block is the one that is marked.

    The token before it is the same for all images, and is before no other block.
    """
    markers = _markers(adapter, image, lengths, offset=-1)
    if markers is None:
        return max(len(lengths), 1)
    is_next = markers[1:] == markers[0]
    return 1 + int(is_next.int().argmax()) if bool(is_next.any()) else len(markers)


def _markers(
    adapter: FamilyAdapter, image: PreparedImage, lengths: Sequence[int], offset: int
) -> Tensor | None:
    """The token next to each block; None where these are not the remaining tokens."""
    ids: Tensor = image.inputs["input_ids"][0]
    positions = (ids == known_token_id(adapter, image)).nonzero()[:, 0]
    positions = positions[len(positions) - image.remaining_tokens :]
    ends = torch.tensor(list(lengths)).cumsum(0)
    if not lengths or int(ends[-1]) != len(positions):
        return None
    edges = ends - 1 if offset > 0 else ends - torch.tensor(list(lengths))
    return ids[(positions[edges] + offset).clamp(0, len(ids) - 1)]


def known_token_id(adapter: FamilyAdapter, image: PreparedImage) -> int:
    """The id of an image token, from the configuration or the processor."""
    if image.config is None:
        return adapter.image_token_id(image.processor)
    return int(image.config.image_token_id)
