"""Families that see an image as a small copy and as a canvas that is cut into tiles."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.canvas import (
    centred_on_canvas,
    centred_on_square,
    kept_cells,
)
from captum_dexar.families.geometry.grids import patch_of, spread, tokens_of_picture
from captum_dexar.families.geometry.tiles import seen_part
from captum_dexar.maps.layout import ImageLayout, Size, View
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution


class TiledCanvasAdapter(FamilyAdapter):
    """A small copy of the image, then the image itself on the best fitting canvas.

    The tiles of the canvas are put together again, rows and columns of nothing but
    padding are removed, and every row ends with a newline, which has no place.
    """

    required_inputs: ClassVar[tuple[str, ...]] = ("image_sizes",)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        height, width = (int(n) for n in image.inputs["image_sizes"][image.index])
        tile = int(image.inputs["pixel_values"].shape[-1])
        patch_size = self.patch_size(image, tile)
        side = tile // patch_size
        seen = seen_part(side, patch_size, tile)
        _check_settings(image, (height, width), tile)
        if self.is_one_square(image):
            square = centred_on_square((height, width), seen)
            views = [View("full", (side, side), square)]
            count = side * side + 1
        else:
            facts = image.image_processor if image.config is None else image.config
            grid, rectangle = centred_on_canvas(
                (height, width), facts.image_grid_pinpoints, tile, side, seen
            )
            grid = rows, columns = self.shrunk(grid, side, image)
            whole = (0.0, 0.0, seen * height, seen * width)
            views = [View("global", (side, side), whole)]
            # An image that is thinner than a token on its canvas has no tokens there.
            if rows and columns:
                views.append(
                    View("tile", grid, rectangle, side * side, row_stride=columns + 1)
                )
            count = side * side + rows * (columns + 1)
        if image.size is not None:
            scales = image.size[0] / height, image.size[1] / width
            views = [view.scaled(*scales) for view in views]
        return ImageTokens(count, tuple(views))

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        The first picture of an image is its copy (or square), the next ones are the
        tiles of its canvas; any others are padding.
        """
        shape, patch = inputs[self.pixel_input].shape, self.token_pixels(config)
        if len(shape) != 5 or patch is None:
            raise self.unknown_pixels(shape)
        tile = int(shape[-1])
        token = torch.full((shape[0], shape[1], 1, tile, tile), -1)
        for view in layout.views:
            if view.name == "tile":
                size = inputs["image_sizes"][view.image].tolist()
                cells = self._cells_of_tiles(view, size, tile // patch[0], tile, config)
                of_pixel = cells.repeat_interleave(patch[0], 1)
                of_pixel = of_pixel.repeat_interleave(patch[1], 2)
                count, rows, columns = of_pixel.shape
                token[view.image, 1 : 1 + count, 0, :rows, :columns] = of_pixel
            else:
                token[view.image, 0, 0] = tokens_of_picture(view, (tile, tile), patch)
        return token

    def _cells_of_tiles(
        self, view: View, image_size: list[int], side: int, tile: int, config: Any
    ) -> Tensor:
        """Image token of each cell of the canvas, ``(tiles, side, side)``."""
        height, width = image_size
        kept = kept_cells((height, width), config.image_grid_pinpoints, tile, side)
        # On a canvas that was shrunk a token has several cells.
        rows, columns = (spread(kept.grid[i], view.grid[i]) for i in (0, 1))
        cells = torch.full((kept.tiles[0] * side, kept.tiles[1] * side), -1)
        (top, left), (count, across) = kept.first, kept.grid
        cells[top : top + count, left : left + across] = view.tokens.view(view.grid)[
            rows[:, None], columns
        ]
        tiled = cells.unflatten(0, (-1, side)).unflatten(2, (-1, side))
        of_tile: Tensor = tiled.transpose(1, 2).flatten(0, 1)
        return of_tile

    @abstractmethod
    def patch_size(self, image: PreparedImage, tile: int) -> int:
        """Pixels along a token's side, in a tile of ``tile`` pixels along its side."""

    def token_pixels(self, config: Any) -> Size | None:
        """Height and width of a token in pixels, where the canvas is not shrunk."""
        return patch_of(config)

    def is_one_square(self, image: PreparedImage) -> bool:
        """Whether the image is padded to a square rather than cut into tiles."""
        return False

    def shrunk(self, grid: Size, side: int, image: PreparedImage) -> Size:
        """The grid of the canvas, made smaller where it has too many tokens."""
        return grid


def _check_settings(image: PreparedImage, size: Size, tile: int) -> None:
    """Raises ValueError where an image processor's settings are not what the model puts
    the tiles together by, or where tiles are resized or cropped once more."""
    settings = image.image_processor
    if settings is None:
        return
    square = {"height": tile, "width": tile}
    for name in ("size", "crop_size"):
        sides = dict(getattr(settings, name, None) or {})
        known = {side: length for side, length in sides.items() if length is not None}
        if known not in ({}, square, {"shortest_edge": tile}):
            raise ValueError(
                f"The image processor cuts tiles of {tile} x {tile} pixels, but its "
                f"{name} is {known}, so that tiles are resized or cropped once more "
                "and the places of their tokens are not known. Set size and crop_size "
                "to the tile's, or pass boxes=."
            )
    if image.config is None:
        return
    canvases = [
        tuple(select_best_resolution(size, list(facts.image_grid_pinpoints)))
        for facts in (settings, image.config)
    ]
    if canvases[0] != canvases[1]:
        raise ValueError(
            "The image processor's image_grid_pinpoints lead to a canvas of "
            f"{canvases[0][0]} x {canvases[0][1]} pixels, the model's to one of "
            f"{canvases[1][0]} x {canvases[1][1]}. Use the same for both."
        )
