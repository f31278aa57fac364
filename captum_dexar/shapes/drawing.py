"""Draws anti-aliased objects with exact masks from signed distances."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IMAGE_SIZE = 96

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]

COLOUR_VALUES: dict[str, tuple[int, int, int]] = {
    "red": (212, 38, 38),
    "green": (44, 164, 56),
    "blue": (42, 72, 218),
    "yellow": (236, 218, 48),
    "purple": (138, 44, 172),
    "orange": (240, 132, 28),
    "cyan": (56, 208, 222),
    "white": (240, 240, 240),
}

COLOUR_JITTER = 12
PIXEL_NOISE = 6.0
BACKGROUND_RANGE = (45.0, 125.0)
TEXTURE_STRENGTH = 14.0
TEXTURE_CELLS = 7


@dataclass(frozen=True)
class Outline:
    """The geometry of one object, in pixels.

    Args:
        shape (str): one of the names in :data:`SIGNED_DISTANCES`
        center (tuple of float): ``(x, y)``; the centre of the top left pixel is
            ``(0.5, 0.5)``
        radius (float): radius of the circle that the object fits into
        rotation (float): angle in radians
    """

    shape: str
    center: tuple[float, float]
    radius: float
    rotation: float


def _polygon(x: FloatArray, y: FloatArray, corners: FloatArray) -> FloatArray:
    """Signed distance to a closed polygon, for local coordinates of equal shape."""
    start = corners[:, :, None, None]
    edge = np.roll(corners, -1, axis=0)[:, :, None, None] - start
    from_x, from_y = x - start[:, 0], y - start[:, 1]
    along = (from_x * edge[:, 0] + from_y * edge[:, 1]) / (edge**2).sum(axis=1)
    along = np.clip(along, 0.0, 1.0)
    squared = (from_x - edge[:, 0] * along) ** 2 + (from_y - edge[:, 1] * along) ** 2
    # A point is inside if a ray from it to one side crosses an odd number of edges.
    below_start = from_y >= 0
    passes_height = below_start != (from_y - edge[:, 1] >= 0)
    right_of_edge = below_start == (edge[:, 0] * from_y > edge[:, 1] * from_x)
    inside = np.logical_xor.reduce(passes_height & right_of_edge, axis=0)
    sign = np.where(inside, np.float32(-1), np.float32(1))
    result: FloatArray = np.sqrt(squared.min(axis=0)) * sign
    return result


@functools.cache
def _corners(count: int, inner: float) -> FloatArray:
    """Corners on the unit circle; ``inner`` < 1 pulls every second one inwards."""
    angles = np.arange(count) * (2 * np.pi / count) - np.pi / 2
    lengths = np.where(np.arange(count) % 2 == 0, 1.0, inner)
    points = np.stack([np.cos(angles) * lengths, np.sin(angles) * lengths], axis=1)
    return points.astype(np.float32)


def _box(x: FloatArray, y: FloatArray, half_w: float, half_h: float) -> FloatArray:
    over_x, over_y = np.abs(x) - half_w, np.abs(y) - half_h
    outside = np.hypot(np.maximum(over_x, 0), np.maximum(over_y, 0))
    result: FloatArray = outside + np.minimum(np.maximum(over_x, over_y), 0)
    return result


def _circle(x: FloatArray, y: FloatArray, radius: float) -> FloatArray:
    result: FloatArray = np.hypot(x, y) - 0.92 * radius
    return result


def _square(x: FloatArray, y: FloatArray, radius: float) -> FloatArray:
    return _box(x, y, 0.72 * radius, 0.72 * radius)


def _triangle(x: FloatArray, y: FloatArray, radius: float) -> FloatArray:
    return _polygon(x, y, _corners(3, 1.0) * np.float32(radius))


def _star(x: FloatArray, y: FloatArray, radius: float) -> FloatArray:
    return _polygon(x, y, _corners(10, 0.45) * np.float32(radius))


def _cross(x: FloatArray, y: FloatArray, radius: float) -> FloatArray:
    arm, width = 0.94 * radius, 0.3 * radius
    result: FloatArray = np.minimum(_box(x, y, arm, width), _box(x, y, width, arm))
    return result


def _ring(x: FloatArray, y: FloatArray, radius: float) -> FloatArray:
    result: FloatArray = np.abs(np.hypot(x, y) - 0.74 * radius) - 0.2 * radius
    return result


SIGNED_DISTANCES: dict[str, Callable[[FloatArray, FloatArray, float], FloatArray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


@functools.cache
def _texture_basis() -> FloatArray:
    """Linear interpolation from texture cells to pixels, ``(pixels, cells)``."""
    position = np.linspace(0, TEXTURE_CELLS - 1, IMAGE_SIZE)[:, None]
    weights = np.maximum(0.0, 1.0 - np.abs(position - np.arange(TEXTURE_CELLS)))
    return weights.astype(np.float32)


def draw_background(rng: np.random.Generator) -> FloatArray:
    """A smooth random texture of a dull tint, ``(96, 96, 3)``, from 0 to 255."""
    level = rng.uniform(*BACKGROUND_RANGE)
    tint = level + rng.uniform(-15, 15, size=3)
    cells = rng.standard_normal((3, TEXTURE_CELLS, TEXTURE_CELLS), dtype=np.float32)
    basis = _texture_basis()
    texture = np.moveaxis(basis @ cells @ basis.T, 0, 2)
    result: FloatArray = (tint + TEXTURE_STRENGTH * texture).astype(np.float32)
    return result


def draw_object(
    canvas: FloatArray, outline: Outline, colour: str, rng: np.random.Generator
) -> BoolArray:
    """Draws one object of a jittered colour into ``canvas``, in place.

    Returns:
        *ndarray* ``(96, 96)``, bool: the pixels whose centre lies in the object
    """
    (center_x, center_y), radius = outline.center, outline.radius
    left, top = int(max(0, center_x - radius - 2)), int(max(0, center_y - radius - 2))
    right, bottom = int(center_x + radius + 3), int(center_y + radius + 3)
    columns = np.arange(left, min(right, IMAGE_SIZE), dtype=np.float32)
    rows = np.arange(top, min(bottom, IMAGE_SIZE), dtype=np.float32)
    x = (columns + 0.5 - center_x)[None, :]
    y = (rows + 0.5 - center_y)[:, None]
    cos, sin = np.cos(outline.rotation), np.sin(outline.rotation)
    local_x = (x * cos + y * sin).astype(np.float32)
    local_y = (y * cos - x * sin).astype(np.float32)
    distance = SIGNED_DISTANCES[outline.shape](local_x, local_y, radius)

    jitter = rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, size=3)
    value = (np.array(COLOUR_VALUES[colour]) + jitter).astype(np.float32)
    window = (slice(top, top + len(rows)), slice(left, left + len(columns)))
    alpha = np.clip(0.5 - distance, 0.0, 1.0)[:, :, None]
    canvas[window] += alpha * (value - canvas[window])

    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.bool_)
    mask[window] = distance <= 0
    return mask


def finish(canvas: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Adds pixel noise and converts to 8 bits, ``(96, 96, 3)``."""
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * PIXEL_NOISE
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)
