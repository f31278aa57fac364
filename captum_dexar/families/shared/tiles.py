"""Families that see an image as tiles and a small copy of the whole."""

import sys
from abc import abstractmethod
from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.tiles import tile_rectangles
from captum_dexar.families.shared.image_blocks import in_sequence
from captum_dexar.maps.layout import Rectangle, Size, View


class TilesAdapter(FamilyAdapter):
    """Tiles of an image stretched to fill them, and a small copy of it.

    An image of a single tile has no copy. The numbers of rows and columns of tiles are
    not among the model's inputs, so they are computed by the image processor's own
    function.

    Attributes:
        copy_comes_first (bool): whether the tokens of the copy come before the tiles'
    """

    flat_pixels: ClassVar[bool] = True
    copy_comes_first: ClassVar[bool] = False

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        tile = int(image.inputs["pixel_values"].shape[-1])
        side, seen = self.tokens_across_tile(image, tile)
        whole: Rectangle | None = None
        if image.size is None or image.image_processor is None:
            # The remaining tokens are taken for those of one image, except where they
            # fill two grids: no image has one tile and a copy.
            num_grids = image.remaining_tokens // side**2
            tiles: list[Any] = [None] * (num_grids - 1 if num_grids > 2 else 1)
        else:
            tiles = tile_rectangles(image.size, *self.tile_grid(image), seen)
            whole = tile_rectangles(image.size, 1, 1, seen)[0]
        grid = (side, side)
        if len(tiles) == 1:
            return self.placed("full", grid, tiles[0])
        views = [View("tile", grid, rectangle) for rectangle in tiles]
        views.insert(
            0 if self.copy_comes_first else len(views), View("global", grid, whole)
        )
        return in_sequence(views)

    @abstractmethod
    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """Image tokens along a tile's side, and the part of the side that they cover.

        Args:
            image (PreparedImage): the image
            tile (int): pixels along the tile's side
        """

    def tile_grid(self, image: PreparedImage) -> Size:
        """Rows and columns of tiles, both 1 where the image is not cut."""
        if not image.image_processor.crop_to_patches:
            return 1, 1
        columns, rows = self.columns_and_rows(image)
        return rows, columns

    def columns_and_rows(self, image: PreparedImage) -> Size:
        """Columns and rows of tiles of an image that may be cut."""
        settings = image.image_processor
        columns, rows = function_of(settings, "get_optimal_tiled_canvas")(
            image.size,
            (settings.size["height"], settings.size["width"]),
            settings.min_patches,
            settings.max_patches,
        )
        return int(columns), int(rows)


def function_of(image_processor: Any, name: str) -> Any:
    """The module-level function of this name that an image processor calls.

    Image processors of one family for different backends are in modules of their own,
    some of which can't be imported without their backend.

    Raises:
        TypeError: There is no such function.
    """
    for base in type(image_processor).__mro__:
        function = getattr(sys.modules[base.__module__], name, None)
        if function is not None:
            return function
    raise TypeError(
        f"{type(image_processor).__name__} cuts no image into tiles: its module has "
        f"no function {name}."
    )
