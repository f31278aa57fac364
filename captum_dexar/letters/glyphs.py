"""Outlines of characters, from the fonts that matplotlib installs."""

import functools
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextToPath

FloatArray = npt.NDArray[np.floating[Any]]

# Bold ones: thin strokes would be lost at 20 pixels.
FONTS = {
    "DejaVu Sans Bold": "DejaVuSans-Bold.ttf",
    "DejaVu Sans Bold Oblique": "DejaVuSans-BoldOblique.ttf",
    "DejaVu Sans Mono Bold": "DejaVuSansMono-Bold.ttf",
    "DejaVu Serif Bold": "DejaVuSerif-Bold.ttf",
    "DejaVu Serif Bold Italic": "DejaVuSerif-BoldItalic.ttf",
    "STIX General Bold": "STIXGeneralBol.ttf",
}

# So many straight edges replace one curved piece of an outline.
EDGES_PER_CURVE = 6


class _FontUnits(TextToPath):
    """Converts texts to outlines in the units of their font.

    Args:
        units_per_em (int): of the font
    """

    def __init__(self, units_per_em: int) -> None:
        super().__init__()
        self.FONT_SCALE = units_per_em


@functools.cache
def outline(font: str, character: str) -> FloatArray:
    """The outline of a character, as straight edges.

    It is read in the font's own units, so that it does not depend on how a version of
    FreeType scales, rounds and hints.

    Args:
        font (str): one of :data:`FONTS`
        character (str): one character

    Returns:
        *ndarray* ``(edges, 2, 2)``, read-only: start and end of each edge, ``(x, y)``
        with ``y`` downwards; the height is 1, and the centre of the bounding box is
        (0, 0)
    """
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", FONTS[font])
    units = _FontUnits(get_font(file).units_per_EM)
    points, codes = units.get_text_path(FontProperties(fname=str(file)), character)
    edges = np.array(_edges(Outline(points, codes))) * (1, -1)
    ends = edges.reshape(-1, 2)
    low, high = ends.min(axis=0), ends.max(axis=0)
    scaled: FloatArray = (edges - (low + high) / 2) / (high[1] - low[1])
    scaled.setflags(write=False)
    return scaled


def _edges(path: Outline) -> list[tuple[FloatArray, FloatArray]]:
    """Start and end of each edge of closed contours of lines and quadratic curves."""
    edges: list[tuple[FloatArray, FloatArray]] = []
    first = last = np.zeros(2)
    for values, code in path.iter_segments(simplify=False, curves=True):
        points = values.reshape(-1, 2)
        if code == Outline.MOVETO:
            first = last = points[0]
            continue
        if code == Outline.CLOSEPOLY:
            ends = first[None]
        elif code == Outline.CURVE3:
            along = np.arange(1, EDGES_PER_CURVE + 1)[:, None] / EDGES_PER_CURVE
            control, end = points
            ends = (
                (1 - along) ** 2 * last + 2 * along * (1 - along) * control
            ) + along**2 * end
        else:
            ends = points
        for end in ends:
            edges.append((last, end))
            last = end
    return edges
