"""The weights of attention heads as a table of colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

import matplotlib
import numpy as np
from captum_dexar.visualization.legend import draw_legend, Legend, legend_height
from captum_dexar.visualization.overlay import COLORMAP, FloatArray
from captum_dexar.visualization.panels import empty_axes
from captum_dexar.visualization.text import (
    AS_IT_IS,
    background_of,
    Ink,
    ink_of,
    paragraph,
)
from captum_dexar.visualization.text_figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

# Inches.
_CELL, _MOST_CELLS = 0.3, (6.4, 4.8)
_NARROWEST, _LOWEST = 3.0, 1.0
_LEFT, _BELOW, _MARGIN, _LINE = 0.55, 0.45, 0.1, 0.2
_BAR_GAP, _BAR_WIDTH, _BAR_TEXT = 0.1, 0.1, 0.62
_CHARACTER_10 = 0.091
_MOST_LINES = 3
_MOST_TICKS = 16


def head_figure(
    weights: FloatArray,
    layers: Sequence[int],
    title: str,
    scale_label: str,
    legend: Legend = (),
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, Axes]:
    """Rows are layers, columns are heads.

    Args:
        weights (ndarray): ``(layers, heads)``, not negative; NaN where a layer has no
            such head
        layers (sequence of int): the layers' indices
        title (str): text above
        scale_label (str): label of the colour bar
        legend (sequence of pairs of str, optional): terms and what they mean, below.
            Default: none
        figure (Figure or SubFigure, optional): drawn on. Default: None, a new one

    Returns:
        The figure and the axes of the table.
    """
    beside = _LEFT + _BAR_GAP + _BAR_WIDTH + _BAR_TEXT
    if figure is None:
        rows, columns = weights.shape
        width = beside + max(_NARROWEST, min(_MOST_CELLS[0], columns * _CELL))
    else:
        width, height = (float(side) / figure.dpi for side in figure.bbox.size)
    text = paragraph(title, int((width - 2 * _MARGIN) / _CHARACTER_10), _MOST_LINES)
    above = _MARGIN + _LINE * (text.count("\n") + 1) + 0.05
    below = _BELOW + legend_height(legend, width)
    if figure is None:
        height = above + below + max(_LOWEST, min(_MOST_CELLS[1], rows * _CELL))
        figure = new_figure(width, height)
    inner = width - beside, height - above - below
    if min(inner) < _LOWEST / 2:
        raise ValueError(
            f"A figure of {width:.3g} x {height:.3g} inches is too small for the "
            f"weights of {weights.shape[0]} layers x {weights.shape[1]} heads with "
            f"their text. It needs about {beside + _NARROWEST:.3g} x "
            f"{above + below + _LOWEST:.3g} inches."
        )
    size = width, height
    ink = ink_of(figure)
    axis = empty_axes(figure, (_LEFT, below, *inner), size)
    drawn = _draw(axis, weights, layers, ink)
    figure.text(
        _MARGIN / width,
        1 - _MARGIN / height,
        text,
        fontsize=10,
        fontweight="bold",
        color=ink.strong,
        va="top",
        **AS_IT_IS,
    )
    left = _LEFT + inner[0] + _BAR_GAP
    cax = empty_axes(figure, (left, below, _BAR_WIDTH, inner[1]), size)
    cax.set_frame_on(True)
    bar = figure.colorbar(drawn, cax=cax)
    bar.set_label(scale_label, fontsize=8, color=ink.strong)
    bar.ax.tick_params(labelsize=7, color=ink.strong, labelcolor=ink.strong)
    bar.outline.set_edgecolor(ink.strong)
    draw_legend(figure, legend, size, ink)
    return figure, axis


def head_panel(
    axis: Axes, weights: FloatArray, layers: Sequence[int], title: str
) -> None:
    """Draws the weights of heads on given axes, without a colour bar.

    Args:
        axis (Axes): the axes
        weights, layers, title: as in :func:`head_figure`
    """
    ink = ink_of(axis.figure)
    _draw(axis, weights, layers, ink)
    width = axis.get_window_extent().width / axis.figure.dpi
    axis.set_title(
        paragraph(title, int(width / _CHARACTER_10), _MOST_LINES),
        fontsize=9,
        color=ink.strong,
        **AS_IT_IS,
    )


def _draw(
    axis: Axes, weights: FloatArray, layers: Sequence[int], ink: Ink
) -> AxesImage:
    rows, columns = weights.shape
    largest = float(np.nanmax(weights, initial=0.0))
    drawn = axis.imshow(
        np.ma.masked_invalid(weights),
        cmap=matplotlib.colormaps[COLORMAP].with_extremes(bad=ink.faint),
        vmin=0.0,
        vmax=largest or 1.0,
        origin="upper",
        aspect="auto",
        interpolation="nearest",
    )
    axis.set_frame_on(False)
    # Lines of the background's colour set cells apart.
    axis.grid(False)
    axis.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axis.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    axis.grid(True, which="minor", color=background_of(axis.figure), linewidth=0.8)
    axis.tick_params(which="minor", length=0)
    axis.set_xticks(_ticks(columns), labels=[str(one) for one in _ticks(columns)])
    axis.set_yticks(_ticks(rows), labels=[str(layers[one]) for one in _ticks(rows)])
    axis.set_xlabel("head", fontsize=8, color=ink.strong)
    axis.set_ylabel("layer", fontsize=8, color=ink.strong)
    axis.tick_params(labelsize=7, length=2, color=ink.strong, labelcolor=ink.strong)
    return drawn


def _ticks(count: int) -> range:
    return range(0, count, max(1, -(-count // _MOST_TICKS)))
