"""Idefics2: queries of a perceiver resampler."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.queries import (
    found_places,
    QueryAdapter,
    QueryAttention,
)
from captum_dexar.maps.layout import Rectangle, Size, View


class Idefics2Adapter(QueryAdapter):
    """The whole image, perhaps after its four quarters, each resized and padded."""

    name: ClassVar[str] = "Idefics2"
    model_types: ClassVar[tuple[str, ...]] = ("idefics2",)
    processor_types: ClassVar[tuple[str, ...]] = ("Idefics2Processor",)
    reader: ClassVar[str] = "the resampler"
    boxes_checked: ClassVar[str] = found_places("7 of 24 queries (16 cells)")

    def num_pictures(self, inputs: Mapping[str, Any]) -> int:
        """See :meth:`QueryAdapter.num_pictures`."""
        return int(inputs["pixel_values"].shape[1])

    def num_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`QueryAdapter.num_vision_tokens`."""
        rows, columns = self._padded(inputs, config)
        return rows * columns

    def attentions(self, model: Any) -> list[QueryAttention]:
        """See :meth:`QueryAdapter.attentions`."""
        layers = model.model.connector.perceiver_resampler.layers
        return [QueryAttention(layer.self_attn, "both") for layer in layers]

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        per_image = 5 if getattr(image.image_processor, "do_image_splitting", 0) else 1
        padded = self._padded(image.inputs, image.config)
        size = padded[0] * padded[1]
        views = []
        for index in range(per_image):
            rectangle = None
            if image.size is not None:
                rectangle = _part(image.size, index if per_image > 1 else 4)
            grid, rectangle = self._seen(
                image, image.index * per_image + index, rectangle
            )
            name = "global" if index == per_image - 1 else "tile"
            name = name if per_image > 1 else "full"
            views.append(
                View(name, grid, rectangle, index * size, row_stride=padded[1])
            )
        return ImageTokens(per_image * size, tuple(views))

    def _padded(self, inputs: Mapping[str, Any], config: Any) -> Size:
        """Rows and columns of patches of all pictures, padding included."""
        patch = config.vision_config.patch_size
        height, width = inputs["pixel_values"].shape[-2:]
        return int(height) // patch, int(width) // patch

    def _seen(
        self, image: PreparedImage, picture: int, part: Rectangle | None
    ) -> tuple[Size, Rectangle | None]:
        """The grid of whole patches of a picture, and their rectangle."""
        patch = image.config.vision_config.patch_size
        mask = image.inputs.get("pixel_attention_mask")
        height, width = image.inputs["pixel_values"].shape[-2:]
        if mask is not None:
            seen = torch.as_tensor(mask)[0, picture] > 0
            height, width = int(seen.any(1).sum()), int(seen.any(0).sum())
        rows, columns = int(height) // patch, int(width) // patch
        if part is None:
            return (rows, columns), None
        y0, x0, y1, x1 = part
        bottom = y0 + (y1 - y0) * rows * patch / height
        right = x0 + (x1 - x0) * columns * patch / width
        return (rows, columns), (y0, x0, bottom, right)


def _part(size: Size, index: int) -> Rectangle:
    """The rectangle of a quarter of the image; of the whole image for index 4."""
    height, width = size
    middle_y, middle_x = height // 2, width // 2
    top, bottom = ((0, middle_y), (middle_y, height), (0, height))[index // 2]
    left, right = (
        (0, width) if index == 4 else ((0, middle_x), (middle_x, width))[index % 2]
    )
    return float(top), float(left), float(bottom), float(right)
