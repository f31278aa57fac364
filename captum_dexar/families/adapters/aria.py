"""Aria: queries of the projector."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.image_blocks import in_sequence
from captum_dexar.families.shared.queries import (
    found_places,
    QueryAdapter,
    QueryAttention,
)
from captum_dexar.maps.layout import Rectangle, Size, View
from transformers.image_processing_utils import (
    get_patch_output_size,
    select_best_resolution,
)
from transformers.image_utils import ChannelDimension


class AriaAdapter(QueryAdapter):
    """The whole image, or parts of it if it is split, each resized and padded to a
    square at its bottom or right. Each has queries of its own.
    """

    name: ClassVar[str] = "Aria"
    model_types: ClassVar[tuple[str, ...]] = ("aria",)
    processor_types: ClassVar[tuple[str, ...]] = ("AriaProcessor",)
    reader: ClassVar[str] = "the projector"
    boxes_checked: ClassVar[str] = found_places(
        "9 of 24 queries (25 cells), and of split images for 17 of 48 (50 cells)"
    )

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
        side = int(image.inputs["pixel_values"].shape[-1])
        cells = side // image.config.vision_config.patch_size
        settings = image.image_processor
        if image.size is None or settings is None:
            return self.placed("full", (cells, cells), None)
        if not getattr(settings, "split_image", False):
            square = _padded((0.0, 0.0, *image.size), image.size, settings, side)
            return self.placed("full", (cells, cells), square)
        parts = [
            _padded(place, size, settings, side)
            for place, size in _parts(image.size, settings.split_resolutions, side)
        ]
        name = "tile" if len(parts) > 1 else "full"
        return in_sequence([View(name, (cells, cells), part) for part in parts])


def _padded(place: Rectangle, size: Size, settings: Any, side: int) -> Rectangle:
    """The rectangle of the square that a part of the image is padded to.

    Args:
        place (tuple of float): the part's place on the image
        size (tuple of int): the part's height and width before it is resized
        settings (BaseImageProcessor): the image processor
        side (int): pixels along the side of the square
    """
    scale = side / max(size)
    height, width = (
        (
            side
            if edge == max(size)
            else max(int(edge * scale), int(settings.min_image_size))
        )
        for edge in size
    )
    y0, x0, y1, x1 = place
    return (y0, x0, y0 + (y1 - y0) * side / height, x0 + (x1 - x0) * side / width)


def _parts(
    size: Size, resolutions: list[list[int]], side: int
) -> list[tuple[Rectangle, Size]]:
    """Places on the image, and sizes, of the parts of the canvas that holds it.

    The image is resized to fit the canvas and centred on it, and the canvas is cut into
    squares, from its top left corner; those at its end may be smaller.
    """
    canvas = select_best_resolution(size, resolutions)
    blank = np.broadcast_to(np.uint8(0), (3, *size))
    resized = get_patch_output_size(blank, canvas, ChannelDimension.FIRST)
    pasted = [(whole - part) // 2 for whole, part in zip(canvas, resized)]
    scales = [whole / part for whole, part in zip(size, resized)]
    parts = []
    for top in range(0, canvas[0], side):
        for left in range(0, canvas[1], side):
            bottom, right = min(top + side, canvas[0]), min(left + side, canvas[1])
            place = (
                (top - pasted[0]) * scales[0],
                (left - pasted[1]) * scales[1],
                (bottom - pasted[0]) * scales[0],
                (right - pasted[1]) * scales[1],
            )
            parts.append((place, (bottom - top, right - left)))
    return parts
