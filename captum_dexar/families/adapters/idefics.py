"""Idefics3 and SmolVLM."""

from typing import ClassVar

import torch
from captum_dexar.families.base import (
    FamilyAdapter,
    ImageTokens,
    PreparedImage,
    side_of,
)
from captum_dexar.families.geometry.image_blocks import (
    in_sequence,
    num_blocks,
    prepared_again,
    unplaced_blocks,
)
from captum_dexar.families.geometry.tiles import seen_part, tile_rectangles
from captum_dexar.maps.layout import View
from torch import Tensor


class Idefics3Adapter(FamilyAdapter):
    """Tiles of the stretched image, then the whole; or the whole by itself."""

    name: ClassVar[str] = "Idefics3, SmolVLM"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")
    processor_types: ClassVar[tuple[str, ...]] = (
        "Idefics3Processor",
        "SmolVLMProcessor",
    )

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        tile = int(image.inputs["pixel_values"].shape[-1])
        side, seen = self._tokens_across_tile(image, tile)
        grid = (side, side)
        if image.size is None or image.image_processor is None:
            lengths = [side**2] * (image.remaining_tokens // side**2)
            blocks = num_blocks(self, image, lengths, offset=-1)
            return unplaced_blocks([grid] * blocks, last="global")
        made = prepared_again(image, return_row_col_info=True)
        rows, columns = made["rows"][0][0], made["cols"][0][0]
        whole = tile_rectangles(image.size, 1, 1, seen)[0]
        if rows * columns == 0:
            return self.placed("full", grid, whole)
        tiles = tile_rectangles(image.size, rows, columns, seen)
        views = [View("tile", grid, rectangle) for rectangle in tiles]
        return in_sequence([*views, View("global", grid, whole)])

    def visible(self, pixels: Tensor) -> Tensor:
        """See :meth:`FamilyAdapter.visible`; pictures of zeros alone are dropped."""
        # Added, not put in their place, so that gradients pass.
        return pixels + torch.finfo(pixels.dtype).tiny * (pixels == 0)

    def _tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """Tokens along the side of a tile of so many pixels, and the part of the side
        that they cover."""
        if image.config is None:
            # The processor does not know the patches: they are as large as may be.
            side = side_of(image.processor.image_seq_len)
            return side, seen_part(side, tile // side, tile)
        facts = image.config
        token_pixels = facts.vision_config.patch_size * facts.scale_factor
        side = tile // token_pixels
        return side, seen_part(side, token_pixels, tile)
