"""Everything that is taken as an image, as an upright PIL image."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from captum_dexar.inputs.deep_levels import (
    check_colour_depth,
    eight_bit,
    HAS_DEEP_LEVELS,
    stores_sixteen_bits,
)
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Picture = Image.Image | np.ndarray | Tensor | str | os.PathLike[str]

CHANNELS = (1, 3, 4)
# Pillow has Ghostscript run them.
PROGRAMS = ("EPS",)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|(https?|file|data):", re.IGNORECASE)


def picture_of(given: Any) -> Image.Image:
    """An image of any kind as a new PIL image, upright, with 8 bits per channel.

    Args:
        given (PIL.Image.Image, numpy.ndarray, Tensor, str or os.PathLike): a PIL image
            of any mode; an array or tensor, ``(H, W)``, ``(H, W, channels)`` or
            ``(channels, H, W)`` with 1, 3 (RGB) or 4 (RGBA) channels, uint8 or floating
            point between 0 and 1; or a path of a file that Pillow can read

    Raises:
        TypeError: It is something else, or the array has another dtype.
        ValueError: There is no pixel, the axes or levels can have two meanings, it is
            an address, or a file that is damaged, too large or no image.
        FileNotFoundError: There is no such file.
        OSError: The file can't be opened.

    Examples::

        >>> import numpy as np
        >>> from captum_dexar.inputs.pictures import picture_of
        >>> picture_of(np.zeros((40, 60, 3), dtype=np.uint8)).size
        (60, 40)
    """
    if isinstance(given, (str, os.PathLike)):
        return _opened(os.fspath(given))
    if isinstance(given, Tensor):
        values = given.detach().cpu()
        # NumPy has no bfloat16.
        given = (values.float() if values.is_floating_point() else values).numpy()
    if isinstance(given, np.ndarray):
        given = _of_array(given)
    if not isinstance(given, Image.Image):
        raise TypeError(
            f"image must be a PIL image, an array, a tensor or a path, got "
            f"{type(given).__name__}."
        )
    # Of an opened file, the pixels are read now.
    with _readable("The image"):
        return _upright(given)


def _upright(image: Image.Image) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ValueError(
            f"The image has no pixel: it is {image.width} wide and {image.height} high."
        )
    # What the file says about its levels is lost when it is loaded, or in a copy.
    has_sixteen_bits = stores_sixteen_bits(image)
    upright: Image.Image = ImageOps.exif_transpose(image)
    if image.mode.startswith(HAS_DEEP_LEVELS):
        return eight_bit(upright, described_by=image)
    if has_sixteen_bits:
        check_colour_depth(upright)
    return upright


def _opened(path: str) -> Image.Image:
    shown = repr(path if len(path) <= 80 else f"{path[:77]}...")
    if not os.path.exists(path):
        if _ADDRESS.match(path):
            raise ValueError(
                f"image is the address {shown}. Addresses are refused: nothing is "
                "downloaded or decoded here, so that the image that is explained is "
                "the one that you have. Pass a path or a PIL image."
            )
        raise FileNotFoundError(
            f"There is no image file {shown}. Pass the path of a file, a PIL image, an "
            "array or a tensor."
        )
    with _readable(f"The image file {shown}"), Image.open(path) as image:
        if image.format in PROGRAMS:
            raise ValueError(
                f"The image file {shown} is {image.format}, which is a program. It is "
                "not run here: convert it to PNG."
            )
        return _upright(image)


@contextmanager
def _readable(image: str) -> Iterator[None]:
    """Names the image in errors of Pillow's decoders, as ValueError."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError(f"{image} is nothing that Pillow knows as an image.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{image} is too large: {error} Scale it down. If you know where it comes "
            "from, raise PIL.Image.MAX_IMAGE_PIXELS and open it yourself."
        ) from None
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # decoders raise many types for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            # The file can't be opened or read.
            raise
        raise ValueError(
            f"{image} is damaged or incomplete: {str(error) or type(error).__name__}."
        ) from error


def _of_array(array: np.ndarray) -> Image.Image:
    shape = "(" + ", ".join(map(str, array.shape)) + ")"
    if array.ndim not in (2, 3):
        raise ValueError(
            "An array or tensor must be one image, (H, W), (H, W, channels) or "
            f"(channels, H, W), got shape {shape}. Pass several images as a list."
        )
    if array.size == 0:
        raise ValueError(f"The image has no pixel: its shape is {shape}.")
    if array.ndim == 3:
        axes = [axis for axis in (0, 2) if array.shape[axis] in CHANNELS]
        if not axes:
            raise ValueError(
                "An array or tensor must have 1, 3 or 4 channels on its first or last "
                f"axis, got shape {shape}."
            )
        if len(axes) == 2:
            raise ValueError(
                f"Which axis of an image of shape {shape} holds the channels is "
                "ambiguous. Pass a PIL image: PIL.Image.fromarray(array) takes "
                "(H, W, channels)."
            )
        array = np.moveaxis(array, axes[0], -1)
        if array.shape[-1] == 1:
            array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(_eight_bit_array(array)))


def _eight_bit_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(
            "An array or tensor must be uint8, or floating point between 0 and 1, got "
            f"{array.dtype}. Convert levels of 0 to 255 to uint8."
        )
    low, high = array.min(), array.max()
    # Also False for NaN.
    if not (low >= 0 and high <= 1):
        raise ValueError(
            "A floating point array or tensor must lie between 0 and 1, got values "
            f"from {low:g} to {high:g}. Convert levels of 0 to 255 to uint8; undo a "
            "normalisation."
        )
    levels: np.ndarray = np.rint(array * 255).astype(np.uint8)
    return levels
