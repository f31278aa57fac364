"""Images in result files: PNG and nothing else, of bounded size."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from captum_dexar.maps.layout import ImageLayout, Size
from captum_dexar.result.description import Damaged, MOST_PIXELS
from captum_dexar.result.file_checks import check_sizes, expect
from PIL import Image, PngImagePlugin
from torch import Tensor


def encoded(image: Image.Image) -> Tensor:
    """An image as the bytes of a PNG, ``(bytes,)``, uint8."""
    png = io.BytesIO()
    # Pillow does not read colour profiles of more than a megabyte again.
    image.save(png, format="PNG", icc_profile=None)
    return torch.from_numpy(np.frombuffer(png.getvalue(), dtype=np.uint8).copy())


def decoded(stored: Sequence[Tensor], layout: ImageLayout) -> list[Image.Image]:
    """The images, RGB, after a look at all of their sizes.

    Args:
        stored (sequence of Tensor): the bytes of each, ``(bytes,)``, uint8
        layout (ImageLayout): says how large they have to be, if that is known

    Raises:
        Damaged: one is no PNG, damaged, or of another size, or they are too large.
    """
    opened = [_opened(png, index) for index, png in enumerate(stored)]
    sizes: list[Size] = [(image.height, image.width) for image in opened]
    check_pixels(sizes)
    check_sizes(sizes, layout)
    return [_read(image, index) for index, image in enumerate(opened)]


def check_pixels(sizes: Sequence[Size]) -> None:
    """Raises Damaged for more pixels than a result file holds."""
    pixels = sum(height * width for height, width in sizes)
    fits = pixels <= MOST_PIXELS
    expect(
        fits,
        "images",
        f"of {MOST_PIXELS} pixels together at most (smaller copies can be explained)",
        pixels,
    )


def _opened(png: Tensor, index: int) -> Image.Image:
    # Image.open would refuse, or warn of, images that are smaller than our own limit.
    try:
        return PngImagePlugin.PngImageFile(io.BytesIO(png.numpy().tobytes()))
    except Exception as error:  # a decoder may raise anything
        raise Damaged(f"image {index} can't be read: {error}") from error


def _read(image: Image.Image, index: int) -> Image.Image:
    try:
        converted: Image.Image = image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise Damaged(f"image {index} can't be read: {error}") from error
    return converted
