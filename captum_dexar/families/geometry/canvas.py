"""An image on a canvas that is cut into tiles, and on a square, padded on both sides.

What transformers has a function for is computed by that function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from captum_dexar.maps.layout import Rectangle, Size
from transformers.image_processing_utils import (
    get_patch_output_size,
    select_best_resolution,
)
from transformers.image_utils import ChannelDimension


def centred_on_square(image_size: Size, seen: float) -> Rectangle:
    """Rectangle of a square with the image at its centre and padding around it."""
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
    """The tokens of a tiled canvas that holds the image, without those of the padding.

    The image is resized to fit the canvas and centred on it, and the canvas is cut into
    tiles. Their tokens are put together again, and as many rows or columns are removed
    on either side as the image's shape implies.

    Where patches do not fill the tiles, the strip at the end of each that no token sees
    is distributed evenly: boxes are off by less than its width, which is less than a
    patch. Where patches fill the tiles, boxes are exact.

    Args:
        image_size (tuple of int): height and width of the original image
        canvas_sizes (sequence): heights and widths of the canvases to choose from
        tile (int): pixels along the side of a tile
        side (int): tokens along the side of a tile
        seen (float): the part of a tile's side that its tokens cover

    Returns:
        Rows and columns of the remaining tokens, and their rectangle on the image.
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
    """The cells of a tiled canvas that remain without those of the padding.

    Attributes:
        canvas (tuple of int): height and width of the canvas in pixels
        tiles (tuple of int): its rows and columns of tiles
        first (tuple of int): the first row and the first column of cells that remain
        grid (tuple of int): number of rows and of columns that remain
    """

    canvas: Size
    tiles: Size
    first: Size
    grid: Size


def kept_cells(
    image_size: Size, canvas_sizes: Sequence[Sequence[int]], tile: int, side: int
) -> KeptCells:
    """The cells that remain of the best fitting canvas.

    For the arguments see :func:`centred_on_canvas`.
    """
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    height, width = select_best_resolution(image_size, list(canvas_sizes))
    rows, columns = height // tile * side, width // tile * side
    unpadded = unpad_image(torch.empty(1, rows, columns, device="meta"), image_size)
    kept_rows, kept_columns = unpadded.shape[1:]
    return KeptCells(
        canvas=(height, width),
        tiles=(height // tile, width // tile),
        first=((rows - kept_rows) // 2, (columns - kept_columns) // 2),
        grid=(kept_rows, kept_columns),
    )
