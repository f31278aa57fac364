"""An image that is fitted into a canvas of a fixed size, and padded to it."""

import copy
from typing import Any

from captum_dexar.families.geometry.resizing import resized_size
from captum_dexar.maps.layout import Rectangle, Size


def thumbnail_canvas(image_processor: Any, size: Size, image: Any) -> Rectangle | None:
    """The canvas, in pixels of the original image.

    Follows an image processor of the Donut kind: cut margins off, resize by the
    shortest edge, shrink to fit, pad on all sides; each step if it is enabled.

    Args:
        image_processor (BaseImageProcessor): its settings are read, and where margins
            are cut off it is run again to see where
        size (tuple of int): height and width of the original image
        image (Any): the image that it was given, None if that is not known

    Returns:
        ``y0, x0, y1, x1``, which extend beyond the image where that is padded; None if
        margins were cut off an image that is not known.

    Raises:
        ValueError: The image was rotated.
    """
    canvas = image_processor.size["height"], image_processor.size["width"]
    top = left = 0
    height, width = size
    if getattr(image_processor, "do_crop_margin", None):
        if image is None:
            return None
        top, left, height, width = _without_margins(image_processor, size, image)
    is_across = (canvas[0] - canvas[1]) * (height - width) < 0
    if getattr(image_processor, "do_align_long_axis", None) and is_across:
        raise ValueError(
            "The image processor has rotated the image by 90 degrees "
            "(do_align_long_axis=True), and places on rotated images are not known. "
            "Rotate the image first, or switch do_align_long_axis off."
        )
    fitted = (height, width)
    if image_processor.do_resize:
        fitted = resized_size({"shortest_edge": min(canvas)}, fitted)
    if getattr(image_processor, "do_thumbnail", None):
        fitted = _thumbnail(fitted, canvas)
    if not image_processor.do_pad:
        canvas = fitted
    edges = []
    for start, whole, part, full in zip((top, left), (height, width), fitted, canvas):
        scale, padding = whole / part, (full - part) // 2
        edges.append((start - padding * scale, start + (full - padding) * scale))
    (y0, y1), (x0, x1) = edges
    return (y0, x0, y1, x1)


def _thumbnail(size: Size, canvas: Size) -> Size:
    height, width = min(size[0], canvas[0]), min(size[1], canvas[1])
    if (height, width) == size:
        return size
    if size[0] > size[1]:
        width = int(size[1] * height / size[0])
    elif size[1] > size[0]:
        height = int(size[0] * width / size[1])
    return height, width


def _without_margins(
    image_processor: Any, size: Size, image: Any
) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is left of an image without its margins."""
    found: list[Any] = []

    def note(coordinates: Any) -> Any:
        found.append(image_processor.python_bounding_rect(coordinates))
        return found[-1]

    noting = copy.copy(image_processor)
    noting.python_bounding_rect = note
    convert = image_processor.do_convert_rgb
    noting.crop_margin(image_processor.process_image(image, do_convert_rgb=convert))
    if not found:
        # An image of one colour is kept.
        return 0, 0, size[0], size[1]
    left, top, width, height = (int(value) for value in found[0])
    return top, left, height, width
