"""Image tokens in blocks that text may stand between: tiles and a copy of the whole."""

from collections.abc import Sequence
from typing import Any

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import Size, View
from PIL import Image
from torch import Tensor


def in_sequence(views: Sequence[View]) -> ImageTokens:
    """Image tokens that are those of some views, one after the other."""
    placed, start = [], 0
    for view in views:
        placed.append(View(view.name, view.grid, view.rectangle, start))
        start += view.num_tokens
    return ImageTokens(start, tuple(placed))


def unplaced_blocks(grids: Sequence[Size], last: str) -> ImageTokens:
    """Blocks of one image of which only the grids are known.

    Args:
        grids (sequence of tuple of int): of each block
        last (str): name of the last of several; a single one is ``"full"``
    """
    if len(grids) == 1:
        return in_sequence([View("full", grids[0], None)])
    tiles = [View("tile", grid, None) for grid in grids[:-1]]
    return in_sequence([*tiles, View(last, grids[-1], None)])


def prepared_again(
    image: PreparedImage, color: str = "black", **settings: Any
) -> dict[str, Any]:
    """What the image processor makes of an empty image of the original's size.

    Processors keep the numbers of tiles to themselves, and these follow from the size.
    """
    assert image.size is not None
    height, width = image.size
    empty = Image.new("RGB", (width, height), color)
    return dict(image.image_processor(empty, return_tensors="pt", **settings))


def num_blocks(
    adapter: FamilyAdapter, image: PreparedImage, lengths: Sequence[int], offset: int
) -> int:
    """How many blocks belong to the next image, when its size is not known.

    The token next to an image's last block (the mark of the copy of the whole, or that
    of the end) is the same for all images, and stands next to no other block.

    Args:
        adapter (FamilyAdapter): knows the image token
        image (PreparedImage): the image, for the prompt's ids
        lengths (sequence of int): image tokens of each block that is left
        offset (int): 1 for the token behind a block, -1 for the one before it
    """
    ids: Tensor = image.inputs["input_ids"][0]
    positions = (ids == known_token_id(adapter, image)).nonzero()[:, 0]
    positions = positions[len(positions) - image.remaining_tokens :]
    ends = torch.tensor(list(lengths)).cumsum(0)
    if not lengths or int(ends[-1]) != len(positions):
        return max(len(lengths), 1)
    edges = ends - 1 if offset > 0 else ends - torch.tensor(list(lengths))
    marks = ids[(positions[edges] + offset).clamp(0, len(ids) - 1)]
    return int((marks == marks[-1]).nonzero()[0, 0]) + 1


def known_token_id(adapter: FamilyAdapter, image: PreparedImage) -> int:
    """The id of an image token, from whatever is known."""
    if image.config is None:
        return adapter.image_token_id(image.processor)
    return int(image.config.image_token_id)
