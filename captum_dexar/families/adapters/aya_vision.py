"""Aya Vision."""

from typing import Any, ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.tiles import merged_tokens
from captum_dexar.families.shared.tiles import TilesAdapter


class AyaVisionAdapter(TilesAdapter):
    """Between the tiles there is text: their names or line breaks."""

    name: ClassVar[str] = "Aya Vision"
    model_types: ClassVar[tuple[str, ...]] = ("aya_vision",)
    processor_types: ClassVar[tuple[str, ...]] = ("AyaVisionProcessor",)

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :meth:`TilesAdapter.tokens_across_tile`."""
        if image.config is None:
            return self.tokens_by_processor(image.processor), 1.0
        patch_size = int(image.config.vision_config.patch_size)
        return merged_tokens(tile, patch_size, int(image.config.downsample_factor))

    def tokens_by_processor(self, processor: Any) -> int:
        """Tokens along a tile's side according to the processor."""
        return int(processor.img_size) // int(processor.patch_size)
