"""Aria: queries of the projector."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.queries import (
    found_places,
    QueryAdapter,
    QueryAttention,
)


class AriaAdapter(QueryAdapter):
    """The whole image, padded to a square at its bottom or right."""

    name: ClassVar[str] = "Aria"
    model_types: ClassVar[tuple[str, ...]] = ("aria",)
    processor_types: ClassVar[tuple[str, ...]] = ("AriaProcessor",)
    reader: ClassVar[str] = "the projector"
    boxes_checked: ClassVar[str] = found_places("9 of 24 queries (25 cells)")

    def num_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`QueryAdapter.num_vision_tokens`."""
        patch = int(config.vision_config.patch_size)
        side = int(inputs["pixel_values"].shape[-1]) // patch
        return side * side

    def attentions(self, model: Any) -> list[QueryAttention]:
        """See :meth:`QueryAdapter.attentions`."""
        projector = model.model.multi_modal_projector
        return [QueryAttention(projector.cross_attn.multihead_attn, "patches")]

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        if getattr(image.image_processor, "split_image", False):
            raise ValueError(
                "Where the parts of a split image lie is not known for Aria. Call the "
                "processor without split_image=True."
            )
        side = int(image.inputs["pixel_values"].shape[-1])
        cells = side // image.config.vision_config.patch_size
        if image.size is None:
            return self.placed("full", (cells, cells), None)
        least = int(image.image_processor.min_image_size)
        scale = side / max(image.size)
        height, width = (
            side if edge == max(image.size) else max(int(edge * scale), least)
            for edge in image.size
        )
        rectangle = (
            0.0,
            0.0,
            image.size[0] * side / height,
            image.size[1] * side / width,
        )
        return self.placed("full", (cells, cells), rectangle)
