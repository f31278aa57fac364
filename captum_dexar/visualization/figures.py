"""Figures of token maps, drawn from plain arrays with matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from captum_dexar.visualization.legend import Legend
from captum_dexar.visualization.overlay import Backdrop, FloatArray, seen_image
from captum_dexar.visualization.panels import blank, draw_picture, panels, Room
from captum_dexar.visualization.text import AS_IT_IS, columns, ink_of, label, paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_LAYER_WIDTH, _COLUMN_TITLE = 1.08, 0.2
_SEQUENCE_WIDTH = 3.1
# Characters of the longest text beside a row; lines of the answer above its map.
_ROW_CHARACTERS = 24
_MOST_LINES, _MOST_LINES_ON_AXES = 8, 3
# Inches per line, and per character of 9 and 10 points.
_LINE, _CHARACTER_9, _CHARACTER_10 = 0.18, 0.08, 0.085


def sequence_figure(
    image: npt.NDArray[np.uint8],
    heat: FloatArray,
    unseen: npt.NDArray[np.bool_],
    title: str,
    image_title: str,
    map_title: str,
    scale_label: str,
    legend: Legend = (),
    signed: bool = False,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, Axes]:
    """The image and one map of the whole answer, side by side.

    Args:
        image, unseen, image_title, scale_label, legend, signed, figure: as in
            :func:`token_figure`
        heat (ndarray): the map, ``(height, width)``
        title (str): the answer
        map_title (str): text above the map

    Returns:
        The figure and the axes of the map.
    """
    width = 2 * _SEQUENCE_WIDTH if figure is None else figure.bbox.width / figure.dpi
    text = paragraph(title, int(width / _CHARACTER_10), _MOST_LINES)
    made = panels(
        (1, 2),
        image.shape[0] / image.shape[1],
        _SEQUENCE_WIDTH,
        Room(above=0.26, top=_LINE * (text.count("\n") + 1)),
        scale_label,
        signed,
        figure,
        legend=legend,
    )
    plain, mapped = made.axes.ravel()
    draw_picture(plain, seen_image(image, unseen))
    plain.set_title(image_title, fontsize=10, color=made.ink.strong)
    draw_picture(mapped, Backdrop(image, unseen, signed).overlay(heat))
    mapped.set_title(map_title, fontsize=10, color=made.ink.strong)
    made.figure.suptitle(
        text, fontsize=10, color=made.ink.strong, y=0.99, va="top", **AS_IT_IS
    )
    return made.figure, mapped


def sequence_panel(
    axis: Axes,
    image: npt.NDArray[np.uint8],
    heat: FloatArray,
    unseen: npt.NDArray[np.bool_],
    title: str,
    caption: str,
    signed: bool = False,
) -> None:
    """Draws the map of the whole answer on given axes, without a colour bar.

    Args:
        axis (Axes): the axes
        image, heat, unseen, title, signed: as in :func:`sequence_figure`
        caption (str): text below the map
    """
    blank(axis)
    draw_picture(axis, Backdrop(image, unseen, signed).overlay(heat))
    ink = ink_of(axis.figure)
    axis.set_xlabel(caption, fontsize=8, color=ink.dim)
    width = axis.get_window_extent().width / axis.figure.dpi
    axis.set_title(
        paragraph(title, int(width / _CHARACTER_9), _MOST_LINES_ON_AXES),
        fontsize=9,
        color=ink.strong,
        **AS_IT_IS,
    )


def layer_figure(
    image: npt.NDArray[np.uint8],
    heats: Iterable[Iterable[FloatArray]],
    opacities: Sequence[float],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    unseen: npt.NDArray[np.bool_],
    heading: str,
    scale_label: str,
    legend: Legend = (),
    signed: bool = False,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, npt.NDArray[Any]]:
    """Rows are tokens, columns are layers.

    Args:
        image, unseen, heading, scale_label, legend, signed, figure: as in
            :func:`token_figure`
        heats (iterable of iterable of ndarray): for each row and column a map,
            ``(height, width)``, in [0, 1], or in [-1, 1] if signed
        opacities (sequence of float): of each row's maps, in [0, 1]
        row_labels (sequence of str): the tokens' text
        column_labels (sequence of str): the layers' names

    Returns:
        The figure and its axes, ``(rows, columns)``.
    """
    texts = [label(text, _ROW_CHARACTERS) for text in row_labels]
    widest = max(columns(text) for text in texts)
    made = panels(
        (len(row_labels), len(column_labels)),
        image.shape[0] / image.shape[1],
        _LAYER_WIDTH,
        Room(left=0.1 + _CHARACTER_9 * widest, top=_COLUMN_TITLE),
        scale_label,
        signed,
        figure,
        heading,
        legend,
    )
    colour = made.ink.strong
    backdrop = Backdrop(image, unseen, signed)
    for axes, row, opacity, text in zip(made.axes, heats, opacities, texts):
        for axis, heat in zip(axes, row):
            draw_picture(axis, backdrop.overlay(heat, opacity))
        axes[0].set_ylabel(
            text,
            fontsize=9,
            rotation=0,
            ha="right",
            va="center",
            color=colour,
            **AS_IT_IS,
        )
    for axis, text in zip(made.axes[0], column_labels):
        axis.set_title(text, fontsize=8, color=colour, pad=3)
    return made.figure, made.axes
