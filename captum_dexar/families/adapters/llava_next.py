"""LLaVA-NeXT, and LLaVA-NeXT-Video for images."""

from typing import ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.shared.tiled_canvas import TiledCanvasAdapter


class LlavaNextAdapter(TiledCanvasAdapter):
    """Its geometry follows from the inputs and the configuration alone."""

    name: ClassVar[str] = "LLaVA-NeXT, LLaVA-NeXT-Video (images)"
    model_types: ClassVar[tuple[str, ...]] = ("llava_next", "llava_next_video")
    processor_types: ClassVar[tuple[str, ...]] = (
        "LlavaNextProcessor",
        "LlavaNextVideoProcessor",
    )

    def patch_size(self, image: PreparedImage, tile: int) -> int:
        """See :meth:`TiledCanvasAdapter.patch_size`."""
        if image.config is None:
            return int(image.processor.patch_size)
        return int(image.config.vision_config.patch_size)
