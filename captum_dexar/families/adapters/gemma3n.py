"""Gemma 3n."""

from collections.abc import Mapping
from typing import ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of


class Gemma3nAdapter(FamilyAdapter):
    """One square grid over the stretched image, from a convolutional vision tower."""

    name: ClassVar[str] = "Gemma 3n (images)"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3n",)
    processor_types: ClassVar[tuple[str, ...]] = ("Gemma3nProcessor",)
    boxes_checked: ClassVar[str] = "end to end, up to the vision tower"
    flat_pixels: ClassVar[bool] = True
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "token_type_ids": 0,
    }

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        side = side_of(
            image.processor.image_seq_length
            if image.config is None
            else image.config.vision_soft_tokens_per_image
        )
        return self.placed("full", (side, side), image.whole())
