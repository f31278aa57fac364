"""Scenes: the same seed gives the same scene, and masks are exact."""

import numpy as np
import pytest
from captum_dexar.shapes import make_scene, Scene
from captum_dexar.shapes.drawing import COLOUR_JITTER, COLOUR_VALUES, PIXEL_NOISE
from captum_dexar.shapes.language import COLOURS, SHAPES, SIZES
from captum_dexar.shapes.scene import RADIUS_RANGES
from matplotlib.path import Path

SEEDS = range(120)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed) for seed in SEEDS]


def _dilated(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    size = mask.shape[0]
    shifts = [padded[i : i + size, j : j + size] for i in range(3) for j in range(3)]
    return np.logical_or.reduce(shifts)


def _inside(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Whether points, in the object's own coordinates, lie in a shape."""
    if shape == "circle":
        return x**2 + y**2 <= (0.92 * radius) ** 2
    if shape == "ring":
        distance = np.sqrt(x**2 + y**2)
        return (distance >= 0.54 * radius) & (distance <= 0.94 * radius)
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.72 * radius
    if shape == "cross":
        long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
        return (long <= 0.94 * radius) & (short <= 0.3 * radius)
    count, inner = {"triangle": (3, 1.0), "star": (10, 0.45)}[shape]
    angles = 2 * np.pi * np.arange(count) / count
    lengths = radius * np.where(np.arange(count) % 2, inner, 1.0)
    corners = np.stack([lengths * np.sin(angles), -lengths * np.cos(angles)], axis=1)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return Path(corners).contains_points(points).reshape(x.shape)


def test_everything_is_drawn(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    assert {item.shape for item in objects} == set(SHAPES)
    assert {item.colour for item in objects} == set(COLOURS)
    assert {item.size for item in objects} == set(SIZES)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    for item in objects:
        low, high = RADIUS_RANGES[item.size]
        assert low <= item.radius <= high
        assert abs(item.rotation) <= 0.1


def test_masks_are_the_pixels_whose_centre_lies_in_the_shape(
    scenes: list[Scene],
) -> None:
    rows, columns = np.mgrid[0:96, 0:96] + 0.5
    for item in (item for scene in scenes for item in scene.objects):
        x, y = columns - item.center[0], rows - item.center[1]
        cos, sin = np.cos(item.rotation), np.sin(item.rotation)
        local = (x * cos + y * sin, y * cos - x * sin)
        # The mask is computed in single precision: a pixel centre on the very border
        # may fall on either side.
        surely = _inside(item.shape, *local, item.radius)
        border = np.zeros_like(surely)
        for slack in (0.9999, 1.0001):
            border |= _inside(item.shape, *local, item.radius * slack) != surely
        assert np.array_equal(item.mask | border, surely | border), item


def test_pixels_agree_with_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        pixels = np.asarray(scene.image).astype(float)
        for item in scene.objects:
            interior = ~_dilated(~item.mask)
            expected = np.array(COLOUR_VALUES[item.colour])
            mean = pixels[interior].mean(axis=0)
            assert (abs(mean - expected) <= COLOUR_JITTER + 3).all()
            spread = abs(pixels[interior] - mean).max()
            assert spread <= 6 * PIXEL_NOISE
            around = _dilated(_dilated(item.mask)) & ~_dilated(item.mask)
            difference = np.linalg.norm(pixels[around] - mean, axis=1)
            assert (difference > 2 * PIXEL_NOISE).mean() > 0.98


def test_only_what_is_left_out_is_gone(scenes: list[Scene]) -> None:
    for scene in scenes[:40]:
        whole = np.asarray(scene.image)
        rows, columns = np.indices(whole.shape[:2]) + 0.5
        for index, item in enumerate(scene.objects):
            without = np.asarray(scene.image_without(index))
            changed = (without != whole).any(-1)
            x, y = item.center
            assert not changed[np.hypot(columns - x, rows - y) > item.radius + 1].any()
            assert changed[item.mask].mean() > 0.95
            gone = without[item.mask].astype(float).mean(0)
            assert abs(gone - COLOUR_VALUES[item.colour]).max() > 3 * PIXEL_NOISE
