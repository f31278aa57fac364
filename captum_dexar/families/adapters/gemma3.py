"""Gemma 3."""

from collections.abc import Mapping
from math import ceil
from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.shared.image_blocks import blank_processed, in_sequence
from captum_dexar.maps.layout import Rectangle, View


class Gemma3Adapter(FamilyAdapter):
    """The stretched image, followed, with pan and scan, by crops along its longer
    side."""

    name: ClassVar[str] = "Gemma 3"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    processor_types: ClassVar[tuple[str, ...]] = ("Gemma3Processor",)
    flat_pixels: ClassVar[bool] = True
    required_inputs: ClassVar[tuple[str, ...]] = ("token_type_ids",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "token_type_ids": 0,
    }

    def image_token_id(self, processor: Any) -> int:
        """See :meth:`FamilyAdapter.image_token_id`.

        ``processor.image_token_id`` is another, that of the beginning of an image.
        """
        return int(processor.tokenizer.image_token_id)

    def vision_settings(self, config: Any) -> Any:
        """The part of the configuration that describes how images are read."""
        return config

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        side = side_of(
            image.processor.image_seq_length
            if image.config is None
            else self.vision_settings(image.config).mm_tokens_per_image
        )
        views = [View("full", (side, side), image.whole())]
        for rectangle in _crops(image):
            views.append(View("crop", (side, side), rectangle))
        return in_sequence(views)


def _crops(image: PreparedImage) -> list[Rectangle]:
    """The crops that pan and scan has made of the image, if it was switched on."""
    inputs = image.inputs
    num_pictures = inputs["pixel_values"].shape[0] // inputs["input_ids"].shape[0]
    if image.size is None or num_pictures == image.num_images:
        # Where the images are not known, each picture is taken for one of them.
        return []
    if image.num_images == 1:
        count = num_pictures - 1
    elif image.image_processor is None:
        return []
    else:
        processed = blank_processed(image)
        count = int(processed["num_crops"][0])
    height, width = image.size
    longer = max(height, width)
    step = ceil(longer / max(count, 1))
    crops: list[Rectangle] = []
    for start in range(0, step * count, step):
        stop = min(start + step, longer)
        if width >= height:
            crops.append((0.0, float(start), float(height), float(stop)))
        else:
            crops.append((float(start), 0.0, float(stop), float(width)))
    return crops
