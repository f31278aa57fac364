"""Grids of image tokens, and the image token that each pixel belongs to."""

from math import isqrt
from typing import Any

import torch
from captum_dexar.maps.layout import Size, View
from torch import Tensor


def side_of(num_tokens: int) -> int:
    """Side of a square grid of image tokens.

    Raises:
        ValueError: The number is not a square.
    """
    side = isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(f"{num_tokens} image tokens are no square grid.")
    return side


def patch_of(config: Any) -> Size | None:
    """Height and width of a patch of the pixel input, if the configuration has them."""
    size = getattr(getattr(config, "vision_config", None), "patch_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    return None


def tokens_of_picture(view: View, picture: Size, patch: Size | None) -> Tensor:
    """The image token of each pixel of a picture that is one view.

    Args:
        view (View): the view, whose grid covers the picture
        picture (tuple of int): height and width of the picture
        patch (tuple of int or None): height and width of a patch; None where the cells
            of the grid fill the picture

    Returns:
        *Tensor* ``(height, width)``, int64; -1 for pixels outside all patches.
    """
    rows, columns = (
        cells_of_pixels(picture[axis], view.grid[axis], patch and patch[axis])
        for axis in (0, 1)
    )
    return picked(view.tokens.view(view.grid), rows, columns)


def picked(grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Entries of a grid at all pairs of rows and columns; -1 where one of these is."""
    entries = grid[rows.clamp(min=0)[:, None], columns.clamp(min=0)]
    return entries.where((rows >= 0)[:, None] & (columns >= 0), -1)


def cells_of_pixels(num_pixels: int, num_cells: int, patch: int | None) -> Tensor:
    """The cell of each pixel along a side, -1 for none, ``(num_pixels,)``."""
    num_patches = num_pixels // patch if patch else 0
    if not patch or num_patches < num_cells:
        return spread(num_pixels, num_cells)
    # Patches left over after the last full square of merged patches belong to no cell.
    # If more are left over than such a square has, the grid covers all patches.
    merge = num_patches // num_cells
    if num_patches - merge * num_cells < merge:
        cells = torch.arange(num_patches) // merge
        cells = cells.where(cells < num_cells, -1)
    else:
        cells = spread(num_patches, num_cells)
    outside = cells.new_full((num_pixels - num_patches * patch,), -1)
    return torch.cat([cells.repeat_interleave(patch), outside])


def spread(num_parts: int, num_cells: int) -> Tensor:
    """The cell of each part of a side that the cells fill evenly, ``(num_parts,)``."""
    return torch.arange(num_parts) * num_cells // num_parts
