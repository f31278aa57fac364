"""InternVL and Qianfan-OCR."""

from typing import Any, ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.tiles import merged_tokens
from captum_dexar.families.shared.tiles import TilesAdapter


class InternVLAdapter(TilesAdapter):
    """Square tiles in rows and columns, and a small copy of the image."""

    name: ClassVar[str] = "InternVL, Qianfan-OCR"
    model_types: ClassVar[tuple[str, ...]] = ("internvl", "qianfan_ocr")
    processor_types: ClassVar[tuple[str, ...]] = (
        "InternVLProcessor",
        "QianfanOCRProcessor",
    )

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :meth:`TilesAdapter.tokens_across_tile`."""
        if image.config is None:
            return side_of(int(image.processor.image_seq_length)), 1.0
        patch_size = int(image.config.vision_config.patch_size[0])
        return merged_tokens(tile, patch_size, round(1 / image.config.downsample_ratio))

    def placeholder(self, processor: Any) -> str:
        """See :meth:`FamilyAdapter.placeholder`; Qianfan-OCR's is not the image
        token."""
        named = getattr(processor, "image_placeholder_token", None)
        return super().placeholder(processor) if named is None else str(named)
