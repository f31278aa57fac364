"""Chameleon, which turns an image into tokens of its vocabulary."""

from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.families.shared.plain_prompt import PlainPromptAdapter
from captum_dexar.maps.layout import Size


class ChameleonAdapter(PlainPromptAdapter):
    """A grid of image tokens over the centre of the image."""

    name: ClassVar[str] = "Chameleon"
    model_types: ClassVar[tuple[str, ...]] = ("chameleon",)
    processor_types: ClassVar[tuple[str, ...]] = ("ChameleonProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end with the image encoder's attention, norms and blocks silenced"
    )

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        height, width = image.inputs["pixel_values"].shape[-2:]
        if image.config is None:
            rows = columns = side_of(image.processor.image_seq_length)
        else:
            halvings = len(image.config.vq_config.channel_multiplier) - 1
            rows, columns = height >> halvings, width >> halvings
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            rectangle = resized_crop(image.image_processor, image.size, (height, width))
        return self.placed("full", (rows, columns), rectangle)

    def pixel_patch(self, config: Any) -> Size | None:
        """See :meth:`FamilyAdapter.pixel_patch`."""
        side = 1 << len(config.vq_config.channel_multiplier) - 1
        return side, side
