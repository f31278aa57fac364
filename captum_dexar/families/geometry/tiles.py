"""Images cut into tiles: what the tokens of tiles, canvases and squares cover.

Wherever transformers has a function that decides something of it, that is called.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum_dexar.maps.layout import Rectangle, Size
from transformers.image_processing_utils import (
    get_patch_output_size,
    select_best_resolution,
)
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.modeling_llava_next import unpad_image


def seen_part(side: int, token_pixels: int, tile: int) -> float:
    """The part of a tile's side that its tokens cover.

    Less than one where patches do not fill the tile (14 pixels in 384).

    Args:
        side (int): tokens along the side
        token_pixels (int): pixels along the side of what a token stands for
        tile (int): pixels along the tile's side
    """
    return side * token_pixels / tile


def tile_rectangles(
    image_size: tuple[float, float], rows: int, columns: int, seen: float
) -> list[Rectangle]:
    """Rectangles of the tiles of an image that was stretched to fill them, row by row.

    Args:
        image_size (tuple of int): height and width of the original image
        rows (int): of tiles
        columns (int): of tiles
        seen (float): part of a tile's side that its tokens cover
    """
    height, width = image_size[0] / rows, image_size[1] / columns
    return [
        (
            row * height,
            column * width,
            (row + seen) * height,
            (column + seen) * width,
        )
        for row in range(rows)
        for column in range(columns)
    ]


def centred_on_square(image_size: Size, seen: float) -> Rectangle:
    """Rectangle of a square in whose middle the image lies, padding around it."""
    longest = max(image_size)
    top, left = ((longest - length) // 2 for length in image_size)
    side = seen * longest
    return (-float(top), -float(left), side - top, side - left)


def centred_on_canvas(
    image_size: Size,
    canvas_sizes: Sequence[Sequence[int]],
    tile: int,
    side: int,
    seen: float,
) -> tuple[Size, Rectangle]:
    """Tokens of a tiled canvas on which the image lies, without the padding around it.

    The image is resized to fit, put in the middle of the canvas, and the canvas is cut
    into tiles. Their tokens are put together again, and as many rows or columns are
    taken off either side as the image's shape says.

    Where patches do not fill the tiles, the strip that no token sees at the end of each
    is shared out evenly: boxes are off by less than its width, which is less than a
    patch. With tiles that patches fill they are exact.

    Args:
        image_size (tuple of int): height and width of the original image
        canvas_sizes (sequence): heights and widths of the canvases to choose from
        tile (int): pixels along the side of a tile
        side (int): tokens along the side of a tile
        seen (float): part of a tile's side that its tokens cover

    Returns:
        Rows and columns of tokens that are left, and their rectangle on the image.
    """
    kept = kept_cells(image_size, canvas_sizes, tile, side)
    blank = np.broadcast_to(np.uint8(0), (3, *image_size))
    resized = get_patch_output_size(blank, kept.canvas, ChannelDimension.FIRST)
    starts, stops = [], []
    for axis in (0, 1):
        seen_pixels = kept.canvas[axis] - tile + seen * tile
        cell = seen_pixels / (kept.tiles[axis] * side)
        pasted = (kept.canvas[axis] - resized[axis]) // 2
        scale = image_size[axis] / resized[axis]
        first, count = kept.first[axis], kept.grid[axis]
        starts.append((first * cell - pasted) * scale)
        stops.append(((first + count) * cell - pasted) * scale)
    return kept.grid, (starts[0], starts[1], stops[0], stops[1])


@dataclass(frozen=True)
class KeptCells:
    """Cells of a tiled canvas that are left when those of its padding are taken off.

    Attributes:
        canvas (tuple of int): its height and width in pixels
        tiles (tuple of int): its rows and columns of tiles
        first (tuple of int): the first row and column of cells that is left
        grid (tuple of int): how many rows and columns are left
    """

    canvas: Size
    tiles: Size
    first: Size
    grid: Size


def kept_cells(
    image_size: Size, canvas_sizes: Sequence[Sequence[int]], tile: int, side: int
) -> KeptCells:
    """What is left of the best fitting canvas; arguments as centred_on_canvas has."""
    height, width = select_best_resolution(image_size, list(canvas_sizes))
    rows, columns = height // tile * side, width // tile * side
    left_over = unpad_image(torch.empty(1, rows, columns, device="meta"), image_size)
    kept_rows, kept_columns = left_over.shape[1:]
    return KeptCells(
        canvas=(height, width),
        tiles=(height // tile, width // tile),
        first=((rows - kept_rows) // 2, (columns - kept_columns) // 2),
        grid=(kept_rows, kept_columns),
    )


def function_of(image_processor: Any, name: str) -> Any:
    """The function of that name that an image processor itself calls.

    Image processors of the same family for different backends have modules of their
    own, some of which can't be imported without their backend.
    """
    for base in type(image_processor).__mro__:
        function = getattr(sys.modules[base.__module__], name, None)
        if function is not None:
            return function
    raise TypeError(
        f"{type(image_processor).__name__} cuts no image into tiles: its module has "
        f"no function {name}."
    )
