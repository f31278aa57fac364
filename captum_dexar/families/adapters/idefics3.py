"""Idefics3 and SmolVLM."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.tiles import (
    merged_tokens,
    seen_part,
    tile_rectangles,
)
from captum_dexar.families.shared.image_blocks import (
    blank_processed,
    in_sequence,
    num_blocks,
    unplaced_blocks,
)
from captum_dexar.maps.layout import Size, View
from torch import Tensor


class Idefics3Adapter(FamilyAdapter):
    """Tiles of the stretched image, then a copy of the whole; or only the latter."""

    name: ClassVar[str] = "Idefics3, SmolVLM"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")
    processor_types: ClassVar[tuple[str, ...]] = (
        "Idefics3Processor",
        "SmolVLMProcessor",
    )

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        tile = int(image.inputs["pixel_values"].shape[-1])
        side, seen = self.tokens_across_tile(image, tile)
        grid = (side, side)
        if image.size is None or image.image_processor is None:
            lengths = [side**2] * (image.remaining_tokens // side**2)
            blocks = self.num_blocks(image, lengths)
            return unplaced_blocks([grid] * blocks, last="global")
        rows, columns = self.tile_grid(image)
        whole = tile_rectangles(image.size, 1, 1, seen)[0]
        if rows * columns == 0:
            return self.placed("full", grid, whole)
        tiles = tile_rectangles(image.size, rows, columns, seen)
        views = [View("tile", grid, rectangle) for rectangle in tiles]
        return in_sequence([*views, View("global", grid, whole)])

    def tile_grid(self, image: PreparedImage) -> Size:
        """Rows and columns of tiles, both 0 where there is only the whole image."""
        processed = blank_processed(image, return_row_col_info=True)
        return processed["rows"][0][0], processed["cols"][0][0]

    def num_blocks(self, image: PreparedImage, lengths: Sequence[int]) -> int:
        """The number of tiles and copies of an image whose size is not known."""
        return num_blocks(self, image, lengths, offset=-1)

    def visible(self, pixels: Tensor) -> Tensor:
        """See :meth:`FamilyAdapter.visible`; pictures of zeros only are dropped."""
        # Zeros are added to, not replaced, so that gradients flow.
        return pixels + torch.finfo(pixels.dtype).tiny * (pixels == 0)

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """Tokens along the side of a tile of ``tile`` pixels, and the part of the side
        that they cover."""
        if image.config is None:
            # The processor does not know the patch size: the largest possible is used.
            side = side_of(image.processor.image_seq_len)
            return side, seen_part(side, tile // side, tile)
        config = image.config
        return merged_tokens(tile, config.vision_config.patch_size, config.scale_factor)
