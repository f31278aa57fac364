"""What is put in the place of removed pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from captum_dexar.inputs.pictures import picture_of
from PIL import Image, ImageFilter

# "mean", "blur", a colour, an image, or an image for each image of the prompt.
Fill: TypeAlias = Any
Pixels: TypeAlias = npt.NDArray[np.uint8]

# The standard deviation of the blur, as a share of the image's shorter side.
BLUR = 1 / 16


def filling_pixels(images: Sequence[Image.Image], fill: Fill) -> list[Pixels]:
    """What replaces each pixel of each image, ``(H, W, 3)``.

    Args:
        images (sequence of PIL.Image.Image): the original images, RGB
        fill (str, tuple, PIL.Image.Image, numpy.ndarray, Tensor or list):
            - ``"mean"``: each image's mean colour
            - ``"blur"``: the image under a Gaussian filter, whose standard deviation is
              a sixteenth of its shorter side. Large objects of one colour remain
              recognisable.
            - three numbers from 0 to 255: this RGB colour
            - an image of the same size, as :class:`ImagePromptInput` takes it; a list
              of them for several images

    Raises:
        ValueError: there is no such fill, a colour is none, or the number or size of
            given images differs.
        TypeError: it is nothing of these.
    """
    if isinstance(fill, str) and fill in ("mean", "blur"):
        make = _mean_colour if fill == "mean" else _blurred
        return [make(image) for image in images]
    if isinstance(fill, str):
        raise ValueError(
            "fill must be 'mean', 'blur', an RGB colour such as (128, 128, 128), or an "
            f"image, got {fill!r}."
        )
    if isinstance(fill, (tuple, list)) and all(_is_number(one) for one in fill):
        if len(fill) != 3 or not all(0 <= one <= 255 for one in fill):
            raise ValueError(
                "A colour as fill must be three numbers from 0 to 255, got "
                f"{tuple(fill)}."
            )
        return [_plain(image, np.array(fill)) for image in images]
    given = list(fill) if isinstance(fill, (tuple, list)) else [fill]
    pictures = [picture_of(one).convert("RGB") for one in given]
    sizes = [one.size for one in images]
    if [one.size for one in pictures] != sizes:
        raise ValueError(
            "The images of fill must have the sizes of the originals (width, height), "
            f"{sizes}, got {[one.size for one in pictures]}."
        )
    return [np.array(one) for one in pictures]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _mean_colour(image: Image.Image) -> Pixels:
    return _plain(image, np.array(image).reshape(-1, 3).mean(0))


def _blurred(image: Image.Image) -> Pixels:
    radius = BLUR * min(image.size)
    blurred: Pixels = np.array(image.filter(ImageFilter.GaussianBlur(radius)))
    return blurred


def _plain(image: Image.Image, colour: npt.NDArray[Any]) -> Pixels:
    level = np.rint(colour).astype(np.uint8)
    filled: Pixels = np.broadcast_to(level, (image.height, image.width, 3))
    return filled
