"""Outlines of characters, from the fonts that matplotlib installs."""

import functools
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

FloatArray = npt.NDArray[np.floating[Any]]

# Bold ones mostly: thin strokes would be lost at 18 pixels.
FONTS = {
    "DejaVu Sans": "DejaVuSans.ttf",
    "DejaVu Sans Bold": "DejaVuSans-Bold.ttf",
    "DejaVu Sans Bold Oblique": "DejaVuSans-BoldOblique.ttf",
    "DejaVu Sans Mono Bold": "DejaVuSansMono-Bold.ttf",
    "DejaVu Serif Bold": "DejaVuSerif-Bold.ttf",
    "STIX General Bold": "STIXGeneralBol.ttf",
}

# So many straight edges replace one curved piece of an outline.
EDGES_PER_CURVE = 6


@functools.cache
def outline(font: str, character: str) -> FloatArray:
    """The outline of a character, as straight edges.

    It is the font's own outline, without hinting, which differs between versions of
    FreeType.

    Args:
        font (str): one of :data:`FONTS`
        character (str): one character

    Returns:
        *ndarray* ``(edges, 2, 2)``, read-only: start and end of each edge, ``(x, y)``
        with ``y`` downwards; the height is 1, and the centre of the bounding box is
        (0, 0)
    """
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", FONTS[font])
    path = TextPath((0, 0), character, size=100, prop=FontProperties(fname=str(file)))
    edges = np.array(_edges(path)) * (1, -1)
    points = edges.reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
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
