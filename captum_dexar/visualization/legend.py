"""The lines below a figure that say in plain words how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, TypeAlias

from captum_dexar.visualization.text import AS_IT_IS, Ink

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

# Terms, such as "Colour", and what they mean.
Legend: TypeAlias = Sequence[tuple[str, str]]

# Inches; of a character, of 8 points.
_MARGIN, _ABOVE, _BELOW = 0.1, 0.06, 0.1
_LINE, _CHARACTER, _TERM_CHARACTER, _TERM_GAP = 0.155, 0.064, 0.075, 0.1
_NARROWEST = 12
_FONT_SIZE = 8


def legend_height(legend: Legend, width: float) -> float:
    """The height in inches that a legend takes in a figure of a width in inches."""
    if not legend:
        return 0.0
    return _ABOVE + _LINE * sum(map(len, _lines(legend, width))) + _BELOW


def draw_legend(
    figure: Figure | SubFigure, legend: Legend, size: tuple[float, float], ink: Ink
) -> None:
    """Draws a legend at the lower edge.

    Args:
        figure (Figure or SubFigure): the figure
        legend (sequence of pairs of str): terms and what they mean
        size (tuple of float): width and height of the figure in inches
        ink (Ink): colours of text
    """
    if not legend:
        return
    width, height = size
    top = legend_height(legend, width) - _ABOVE
    for (term, _), lines in zip(legend, _lines(legend, width)):
        style = {"fontsize": _FONT_SIZE, "va": "top", **AS_IT_IS}
        figure.text(
            _MARGIN / width,
            top / height,
            term,
            fontweight="bold",
            color=ink.strong,
            **style,
        )
        for line in lines:
            left = _MARGIN + _term_width(legend)
            figure.text(left / width, top / height, line, color=ink.dim, **style)
            top -= _LINE


def _lines(legend: Legend, width: float) -> list[list[str]]:
    room = width - 2 * _MARGIN - _term_width(legend)
    characters = max(_NARROWEST, int(room / _CHARACTER))
    return [wrap(text, characters) or [""] for _, text in legend]


def _term_width(legend: Legend) -> float:
    return _TERM_CHARACTER * max(len(term) for term, _ in legend) + _TERM_GAP
