"""DeepSeek-VL and Janus, which pad images to squares."""

from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.resizing import resized_and_padded
from captum_dexar.maps.layout import Rectangle


class DeepseekVLAdapter(FamilyAdapter):
    """One grid per image, which is resized to fit a square and padded to it."""

    name: ClassVar[str] = "DeepSeek-VL, Janus"
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_vl", "janus")
    processor_types: ClassVar[tuple[str, ...]] = (
        "DeepseekVLProcessor",
        "JanusProcessor",
    )

    def image_token_id(self, processor: Any) -> int:
        """See :meth:`FamilyAdapter.image_token_id`; Janus' processor does not have
        it."""
        return int(processor.tokenizer.convert_tokens_to_ids(processor.image_token))

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        height, width = image.inputs[self.pixel_input].shape[-2:]
        if image.config is None:
            rows = columns = side_of(int(image.processor.num_image_tokens))
            seen = (1.0, 1.0)
        else:
            patch = int(image.config.vision_config.patch_size)
            rows, columns = height // patch, width // patch
            seen = (rows * patch / height, columns * patch / width)
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            y0, x0, y1, x1 = self.whole_picture(image)
            rectangle = (y0, x0, y0 + seen[0] * (y1 - y0), x0 + seen[1] * (x1 - x0))
        return self.placed("full", (rows, columns), rectangle)

    def whole_picture(self, image: PreparedImage) -> Rectangle:
        """What the whole processed picture covers, in pixels of the original image."""
        assert image.size is not None
        settings = image.image_processor
        return resized_and_padded(settings, image.size, settings.size["height"])
