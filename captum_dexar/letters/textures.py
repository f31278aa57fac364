"""Backgrounds: dark crops of the photographs that scikit-image installs."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage
from PIL import Image

FloatArray = npt.NDArray[np.floating[Any]]

# Those that every wheel of scikit-image holds and that are in the public domain by CC0.
PHOTOGRAPHS = ("brick", "camera", "chelsea", "coffee", "grass", "gravel")
# A pixel of a texture is so many pixels of the photograph wide.
REDUCTIONS = (1, 2)

MEAN_RANGE = (24.0, 58.0)
CONTRAST_RANGE = (10.0, 22.0)
TINT = 6.0
# All colours of characters are brighter.
BRIGHTEST = 92.0
SATURATION = 0.6
LUMINANCE = (0.299, 0.587, 0.114)


@functools.cache
def texture(photograph: str, reduction: int) -> FloatArray:
    """A photograph with less colour, of mean 0 and standard deviation 1.

    Args:
        photograph (str): one of :data:`PHOTOGRAPHS`
        reduction (int): how many pixels of it make one pixel, along each axis

    Returns:
        *ndarray* ``(height, width, 3)``, float32, read-only
    """
    file = Path(skimage.__file__).parent / "data" / f"{photograph}.png"
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    height, width = (length // reduction for length in pixels.shape[:2])
    pixels = pixels[: height * reduction, : width * reduction]
    blocks = pixels.reshape(height, reduction, width, reduction, 3).mean(axis=(1, 3))
    grey = (blocks * LUMINANCE).sum(axis=2, keepdims=True)
    faded = grey + SATURATION * (blocks - grey)
    result: FloatArray = ((faded - grey.mean()) / grey.std()).astype(np.float32)
    result.setflags(write=False)
    return result


def draw_background(size: int, rng: np.random.Generator) -> FloatArray:
    """A random crop of a photograph, turned, darkened and slightly tinted.

    Args:
        size (int): height and width
        rng (numpy.random.Generator): makes every choice

    Returns:
        *ndarray* ``(size, size, 3)``, float32, from 0 to :data:`BRIGHTEST`
    """
    photograph = PHOTOGRAPHS[int(rng.integers(len(PHOTOGRAPHS)))]
    source = texture(photograph, REDUCTIONS[int(rng.integers(len(REDUCTIONS)))])
    top = int(rng.integers(source.shape[0] - size + 1))
    left = int(rng.integers(source.shape[1] - size + 1))
    crop = source[top : top + size, left : left + size]
    crop = np.rot90(crop, int(rng.integers(4)))
    if rng.integers(2):
        crop = crop[:, ::-1]
    mean = rng.uniform(*MEAN_RANGE) + rng.uniform(-TINT, TINT, size=3)
    contrast = np.float32(rng.uniform(*CONTRAST_RANGE))
    result: FloatArray = np.clip(
        mean.astype(np.float32) + contrast * crop, 0, BRIGHTEST
    )
    return result
