"""The part of an image that is left after resizing, padding and cropping."""

from typing import Any

import numpy as np
from captum_dexar.maps.layout import Rectangle
from transformers.image_transforms import (
    get_resize_output_image_size,
    get_size_with_aspect_ratio,
)
from transformers.image_utils import get_image_size_for_max_height_width


def resized_crop(
    image_processor: Any, image_size: tuple[int, int], seen_size: tuple[int, int]
) -> Rectangle:
    """The part of the original image that reaches the model.

    Follows an image processor of the CLIP kind: pad to a square, resize (by the
    shortest edge or to a fixed size), crop the centre; each step if it is enabled.

    Args:
        image_processor (BaseImageProcessor): its settings are read, nothing is run
        image_size (tuple of int): height and width of the original image
        seen_size (tuple of int): height and width that patches cover, from the top left
            corner of the processed image

    Returns:
        ``y0, x0, y1, x1`` in pixels of the original image, without what is cropped
        away; it extends beyond the image where that is padded.
    """
    height, width = image_size
    top = left = 0.0
    if getattr(image_processor, "do_pad", None):
        side = max(height, width)
        top, left = -float((side - height) // 2), -float((side - width) // 2)
        height = width = side
    resized = (height, width)
    if image_processor.do_resize:
        resized = resized_size(image_processor.size, (height, width))
    cut_top = cut_left = 0
    if getattr(image_processor, "do_center_crop", None):
        crop = image_processor.crop_size
        cut_top = (resized[0] - crop["height"]) // 2
        cut_left = (resized[1] - crop["width"]) // 2
    scale_y, scale_x = height / resized[0], width / resized[1]
    return (
        top + cut_top * scale_y,
        left + cut_left * scale_x,
        top + (cut_top + seen_size[0]) * scale_y,
        left + (cut_left + seen_size[1]) * scale_x,
    )


def resized_and_padded(
    image_processor: Any, image_size: tuple[int, int], side: int
) -> Rectangle:
    """What a picture covers that was resized to fit a square, then padded to it.

    Args:
        image_processor (BaseImageProcessor): its settings are read, nothing is run
        image_size (tuple of int): height and width of the original image
        side (int): side of the square

    Returns:
        ``y0, x0, y1, x1`` of the whole picture in pixels of the original image; it
        extends beyond the image where that is padded.
    """
    resized = image_size
    if image_processor.do_resize:
        scale, least = side / max(image_size), image_processor.min_size
        resized = (
            max(round(image_size[0] * scale), least),
            max(round(image_size[1] * scale), least),
        )
    starts, stops = [], []
    for original, length in zip(image_size, resized):
        padded = max(resized) if image_processor.do_pad else length
        start = (padded - length) // 2
        starts.append(-start * original / length)
        stops.append((padded - start) * original / length)
    return (starts[0], starts[1], stops[0], stops[1])


def resized_size(size: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after resizing; ``size`` as image processors state it."""
    shortest, longest = size.get("shortest_edge"), size.get("longest_edge")
    if shortest and longest:
        resized = get_size_with_aspect_ratio(image_size, shortest, longest)
    elif shortest:
        resized = get_resize_output_image_size(
            np.broadcast_to(np.uint8(0), (3, *image_size)),
            size=shortest,
            default_to_square=False,
            input_data_format="channels_first",
        )
    elif size.get("max_height") and size.get("max_width"):
        resized = get_image_size_for_max_height_width(
            image_size, size["max_height"], size["max_width"]
        )
    else:
        resized = (size["height"], size["width"])
    return int(resized[0]), int(resized[1])
