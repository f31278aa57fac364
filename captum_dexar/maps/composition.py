"""Composes one map of an image from several views (tiles, a thumbnail).

Each token's attribution is spread evenly over its box, and each cell of the composed
grid sums the shares that fall into it, over all views. So the total is conserved: the
cells of an image sum to the attributions of its tokens. A single view keeps its grid.
Segments of an image are not spread: each of their cells has the segment's value.
"""

from math import ceil

import torch
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from torch import Tensor


def map_grid(layout: ImageLayout, image: int = 0) -> tuple[int, int]:
    """Rows and columns of the map of one image.

    Args:
        layout (ImageLayout): places of the image tokens
        image (int, optional): index of the image. Default: 0

    Returns:
        The grid of a single view; for several views, a grid over the whole image with
        cells as small as their smallest boxes; if their places are not known, all views
        stacked vertically.
    """
    views = _views_of(layout, image)
    if len(views) == 1:
        return views[0].grid
    if not layout.is_located:
        return _stacked_grid(views)
    assert layout.image_sizes is not None
    height, width = layout.image_sizes[image]
    finest_y = min(view.cell_size[0] for view in views)
    finest_x = min(view.cell_size[1] for view in views)
    # The tolerance absorbs rounding errors of padded rectangles.
    return ceil(height / finest_y - 1e-6), ceil(width / finest_x - 1e-6)


def compose(values: Tensor, layout: ImageLayout, image: int = 0) -> Tensor:
    """The map of one image.

    Args:
        values (Tensor): one attribution per token with a place, ``(..., N)``
        layout (ImageLayout): places of the image tokens
        image (int, optional): index of the image. Default: 0

    Returns:
        *Tensor* ``(..., h, w)`` on :func:`map_grid`, in the dtype of ``values``.
    """
    if isinstance(layout, SegmentLayout):
        return layout.composed(values)
    parts = [
        (view, values[..., column])
        for view, column in layout.columns()
        if view.image == image
    ]
    if len(parts) == 1:
        view, part = parts[0]
        only: Tensor = part.unflatten(-1, view.grid)
        return only
    grid = map_grid(layout, image)
    if not layout.is_located:
        return _stacked(parts, grid)
    assert layout.image_sizes is not None
    size = layout.image_sizes[image]
    composed = values.new_zeros(*values.shape[:-1], *grid)
    for view, part in parts:
        rows = _shares(view, 0, grid[0], size[0]).to(values)
        columns = _shares(view, 1, grid[1], size[1]).to(values)
        composed += torch.einsum(
            "ar,...rc,bc->...ab", rows, part.unflatten(-1, view.grid), columns
        )
    return composed


def map_view(layout: ImageLayout, image: int = 0) -> View:
    """The view that renders :func:`compose`'s map on the image."""
    views = _views_of(layout, image)
    if len(views) == 1 or layout.image_sizes is None:
        return views[0]
    height, width = layout.image_sizes[image]
    whole = (0.0, 0.0, float(height), float(width))
    return View("composed", map_grid(layout, image), whole, image=image)


def _views_of(layout: ImageLayout, image: int) -> list[View]:
    return [view for view in layout.views if view.image == image]


def _shares(view: View, axis: int, num_cells: int, num_pixels: int) -> Tensor:
    """Share of each row (or column) of a view in each cell, ``(cells, rows)``; zero for
    rows on padding only."""
    edges = view.edges(axis, num_pixels)
    cells = torch.linspace(0, num_pixels, num_cells + 1, dtype=torch.float64)
    stop = torch.minimum(cells[1:, None], edges[1:])
    start = torch.maximum(cells[:-1, None], edges[:-1])
    extent = edges[1:] - edges[:-1]
    return (stop - start).clamp(min=0) / extent.where(extent > 0, 1.0)


def _stacked_grid(views: list[View]) -> tuple[int, int]:
    return sum(v.grid[0] for v in views), max(v.grid[1] for v in views)


def _stacked(parts: list[tuple[View, Tensor]], grid: tuple[int, int]) -> Tensor:
    rows = [
        torch.nn.functional.pad(
            part.unflatten(-1, view.grid), (0, grid[1] - view.grid[1])
        )
        for view, part in parts
    ]
    return torch.cat(rows, dim=-2)
