"""Granite Docling."""

from collections.abc import Sequence
from typing import ClassVar

from captum_dexar.families.adapters.idefics3 import Idefics3Adapter
from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.tiles import merged_tokens, seen_part
from captum_dexar.families.shared.image_blocks import num_blocks_from_first
from captum_dexar.maps.layout import Size
from torch import Tensor


class GraniteDoclingAdapter(Idefics3Adapter):
    """Tiles of the stretched image, then a copy of the whole, unless there is one tile.

    On the fine route a tile has four times as many tokens.
    """

    name: ClassVar[str] = "Granite Docling"
    model_types: ClassVar[tuple[str, ...]] = ("granite_docling",)
    processor_types: ClassVar[tuple[str, ...]] = ("GraniteDoclingProcessor",)
    required_inputs: ClassVar[tuple[str, ...]] = ("pixel_attention_mask",)

    def tile_grid(self, image: PreparedImage) -> Size:
        """See :meth:`Idefics3Adapter.tile_grid`."""
        assert image.size is not None
        rows, columns = image.image_processor.get_tile_grid(*image.size)
        return (0, 0) if rows * columns == 1 else (rows, columns)

    def num_blocks(self, image: PreparedImage, lengths: Sequence[int]) -> int:
        """See :meth:`Idefics3Adapter.num_blocks`."""
        return num_blocks_from_first(self, image, lengths)

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :meth:`Idefics3Adapter.tokens_across_tile`."""
        finer = 1 if image.inputs.get("tile_fine_mask") is None else 2
        if image.config is None:
            side = side_of(image.processor.image_seq_len) * finer
            return side, seen_part(side, tile // side, tile)
        vision = image.config.vision_config
        return merged_tokens(tile, vision.patch_size, vision.scale_factor // finer)

    def visible(self, pixels: Tensor) -> Tensor:
        """See :meth:`FamilyAdapter.visible`; only masked pictures are dropped."""
        return pixels
