"""Outlines, and the share of each pixel that they cover."""

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from captum_dexar.letters.coverage import coverage, LINES_PER_PIXEL
from captum_dexar.letters.drawing import Glyph, glyph_coverage
from captum_dexar.letters.glyphs import FONTS, outline
from captum_dexar.letters.language import CHARACTERS
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Polygon
from matplotlib.textpath import TextPath
from scipy.ndimage import gaussian_filter

EVERY = list(itertools.product(FONTS, CHARACTERS))
POINTS = 9  # per pixel, along each axis


def _inside(font: str, character: str, points: npt.NDArray[np.float64]) -> np.ndarray:
    """Which points lie in a character of height 1 around (0, 0), by matplotlib."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", FONTS[font])
    prop = FontProperties(fname=str(file))
    polygons = TextPath((0, 0), character, size=1000, prop=prop).to_polygons()
    corners = np.concatenate(polygons)
    low, high = corners.min(axis=0), corners.max(axis=0)
    flipped = points * (1, -1) * (high[1] - low[1]) + (low + high) / 2
    # Holes are polygons, too.
    return np.logical_xor.reduce(
        [Polygon(p).contains_points(flipped) for p in polygons]
    )


@pytest.mark.parametrize("font", FONTS)
def test_coverage_is_the_share_of_points_inside(font: str) -> None:
    width, height, size = 40, 34, 27.3
    y, x = (np.mgrid[0 : height * POINTS, 0 : width * POINTS] + 0.5) / POINTS
    center = np.array([19.37, 16.81])
    grid = (np.stack([x, y], axis=-1).reshape(-1, 2) - center) / size
    for character in CHARACTERS:
        inside = _inside(font, character, grid).reshape(height, POINTS, width, POINTS)
        covered = coverage(outline(font, character) * size + center, width, height)
        error = abs(covered - inside.mean(axis=(1, 3)))
        # A horizontal edge is seen at the next line only.
        assert error.max() < 2 / LINES_PER_PIXEL, (character, error.max())
        assert error.mean() < 0.005, (character, error.mean())


def test_nothing_is_covered_twice() -> None:
    """Else the sum of what contours cover would be larger than their union."""
    for font, character in EVERY:
        (x0, y0), (x1, y1) = np.moveaxis(outline(font, character) * 80, 0, -1)
        area = abs((x0 * y1 - x1 * y0).sum()) / 2
        shifted = outline(font, character) * 80 + (80, 45)
        assert coverage(shifted, 160, 90).sum() == pytest.approx(area, rel=0.005)


def test_moving_by_whole_pixels_changes_nothing_else() -> None:
    glyph = Glyph("K", "DejaVu Serif Bold", 33.0, 0.07)
    here, there = (glyph_coverage(glyph, (30.25, y)) for y in (40.5, 47.5))
    assert np.allclose(here[10:70], there[17:77], rtol=0, atol=1e-9)
    assert here.max() == 1 and here.min() == 0


def test_a_glyph_fits_into_its_box() -> None:
    for font, character in EVERY:
        glyph = Glyph(character, font, 30.0, -0.1)
        rows, columns = np.nonzero(glyph_coverage(glyph, (48.0, 48.0)) > 0)
        half_width, half_height = glyph.half_extent()
        assert abs(columns + 0.5 - 48).max() <= half_width + 0.5
        assert abs(rows + 0.5 - 48).max() <= half_height + 0.5
        assert half_height == pytest.approx(15, abs=0.1 * half_width + 0.5)


def test_a_character_looks_like_itself_in_another_font() -> None:
    """And less like any other: they are easy to tell apart."""
    # All as wide as high: fonts differ in that.
    pictures = {}
    for font, character in EVERY:
        edges = outline(font, character)
        square = edges / (2 * abs(edges).max(axis=(0, 1))) * 22 + 16
        pictures[font, character] = gaussian_filter(coverage(square, 32, 32), 1.5)
    for font, character in EVERY:
        distances = {
            other: np.linalg.norm(picture - pictures[font, character])
            for other, picture in pictures.items()
            if other[0] != font
        }
        nearest = min(distances, key=lambda other: distances[other])
        assert nearest[1] == character, (font, character, nearest)


def test_outlines_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        outline("DejaVu Sans Bold", "K")[0, 0, 0] = 1
