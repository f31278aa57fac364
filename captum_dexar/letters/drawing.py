"""Draws anti-aliased characters into a picture, and says what they cover."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from captum_dexar.letters.coverage import coverage
from captum_dexar.letters.glyphs import outline

IMAGE_SIZE = 96

FloatArray = npt.NDArray[np.floating[Any]]

COLOUR_VALUES: dict[str, tuple[int, int, int]] = {
    "red": (250, 74, 64),
    "green": (70, 196, 84),
    "blue": (84, 142, 252),
    "yellow": (246, 218, 66),
    "pink": (244, 128, 206),
    "white": (240, 240, 240),
}

COLOUR_JITTER = 10
PIXEL_NOISE = 5.0


@dataclass(frozen=True)
class Glyph:
    """The geometry of one character, in pixels.

    Args:
        character (str): the character
        font (str): one of :data:`captum_dexar.letters.glyphs.FONTS`
        height (float): its height before it is turned
        rotation (float): angle in radians, clockwise
    """

    character: str
    font: str
    height: float
    rotation: float

    def edges(self) -> FloatArray:
        """Its outline around (0, 0), as :func:`outline` has it."""
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        x, y = np.moveaxis(self.height * outline(self.font, self.character), -1, 0)
        result: FloatArray = np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)
        return result

    def half_extent(self) -> FloatArray:
        """Half the width and half the height of a box around (0, 0) that holds it."""
        result: FloatArray = np.abs(self.edges()).max(axis=(0, 1))
        return result


def glyph_coverage(glyph: Glyph, center: tuple[float, float]) -> FloatArray:
    """The share of each pixel of the picture that a character covers, ``(96, 96)``.

    Args:
        glyph (Glyph): the character
        center (tuple of float): ``(x, y)`` of its (0, 0); the centre of the top left
            pixel is (0.5, 0.5)
    """
    edges = glyph.edges() + center
    points = edges.reshape(-1, 2)
    left, top = np.floor(points.min(axis=0)).astype(int)
    right, bottom = np.ceil(points.max(axis=0)).astype(int)
    result: FloatArray = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    result[top:bottom, left:right] = coverage(
        edges - (left, top), right - left, bottom - top
    )
    return result


def draw_character(
    canvas: FloatArray, covered: FloatArray, colour: str, rng: np.random.Generator
) -> None:
    """Draws what is covered in a jittered colour into ``canvas``, in place.

    Args:
        canvas (ndarray): ``(96, 96, 3)``, from 0 to 255
        covered (ndarray): ``(96, 96)``, from 0 to 1
        colour (str): one of :data:`COLOUR_VALUES`
        rng (numpy.random.Generator): makes the jitter
    """
    jitter = rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, size=3)
    value = (np.array(COLOUR_VALUES[colour]) + jitter).astype(np.float32)
    rows, columns = np.nonzero(covered)
    share = covered[rows, columns, None].astype(np.float32)
    canvas[rows, columns] += share * (value - canvas[rows, columns])


def finish(canvas: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Adds pixel noise and converts to 8 bits, ``(96, 96, 3)``."""
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * PIXEL_NOISE
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)
