"""Figures of token maps, drawn from plain arrays with matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from captum_dexar.visualization.overlay import Backdrop, FloatArray, striped
from captum_dexar.visualization.panels import blank, draw_picture, panels, Room
from captum_dexar.visualization.text import AS_IT_IS, columns, ink_of, label, paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_PANEL_WIDTH = 1.55
_LAYER_WIDTH = 1.08
_SEQUENCE_WIDTH = 3.1
_MAX_COLUMNS = 8
# Characters of the longest text beside a row; lines of the answer above its map.
_ROW_CHARACTERS = 24
_MOST_LINES, _MOST_LINES_ON_AXES = 8, 3
# Inches per line, and per character of 9, 10 and bold 10 points.
_LINE, _CHARACTER_9, _CHARACTER_10, _CHARACTER_BOLD = 0.18, 0.08, 0.085, 0.091


def token_figure(
    image: npt.NDArray[np.uint8],
    heats: Iterable[FloatArray],
    strengths: Sequence[float],
    labels: Sequence[str],
    captions: Sequence[str],
    unseen: npt.NDArray[np.bool_],
    scale_label: str,
    signed: bool = False,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, npt.NDArray[Any]]:
    """The image, then one panel per token, all on one colour scale.

    Args:
        image (ndarray): ``(height, width, 3)``, uint8
        heats (iterable of ndarray): each token's map, ``(height, width)``, in [0, 1],
            or in [-1, 1] if signed
        strengths (sequence of float): opacity of each map, in [0, 1]
        labels (sequence of str): the tokens' text, above the panels
        captions (sequence of str): text below the panels, such as weights
        unseen (ndarray): ``(height, width)``, True where no token covers the pixel
        scale_label (str): label of the colour bar
        signed (bool, optional): uses a diverging colour scale. Default: False
        figure (Figure or SubFigure, optional): drawn on. Default: None, a new one

    Returns:
        The figure and its axes, the image's first.
    """
    num_panels = len(labels) + 1
    num_columns = min(_MAX_COLUMNS, num_panels)
    made = panels(
        (ceil(num_panels / num_columns), num_columns),
        image.shape[0] / image.shape[1],
        _PANEL_WIDTH,
        Room(above=0.24, below=0.2),
        scale_label,
        signed,
        figure,
    )
    flat = made.axes.ravel()
    backdrop = Backdrop(image, unseen, signed)
    longest = max(2, int(made.panel_width / _CHARACTER_BOLD))
    draw_picture(flat[0], seen_image(image, unseen))
    flat[0].set_title("image", fontsize=9, color=made.ink.strong)
    for axis, heat, strength, text, caption in zip(
        flat[1:], heats, strengths, labels, captions
    ):
        draw_picture(axis, backdrop.overlay(heat, strength))
        is_dim = strength < 0.5
        colour = made.ink.dim if is_dim else made.ink.strong
        axis.set_title(
            label(text, longest),
            fontsize=10,
            fontweight="normal" if is_dim else "bold",
            color=colour,
            **AS_IT_IS,
        )
        axis.set_xlabel(caption, fontsize=7.5, color=colour, labelpad=3)
    for axis in flat[num_panels:]:
        axis.set_visible(False)
    return made.figure, made.axes


def sequence_figure(
    image: npt.NDArray[np.uint8],
    heat: FloatArray,
    unseen: npt.NDArray[np.bool_],
    title: str,
    signed: bool = False,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, Axes]:
    """The image and one map of the whole answer, side by side.

    Args:
        image, unseen, signed, figure: as in :func:`token_figure`
        heat (ndarray): the map, ``(height, width)``
        title (str): the answer

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
        "share of the largest value",
        signed,
        figure,
    )
    plain, mapped = made.axes.ravel()
    draw_picture(plain, seen_image(image, unseen))
    plain.set_title("image", fontsize=10, color=made.ink.strong)
    draw_picture(mapped, Backdrop(image, unseen, signed).overlay(heat))
    mapped.set_title("whole answer", fontsize=10, color=made.ink.strong)
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
    signed: bool = False,
) -> None:
    """Draws the map of the whole answer on given axes, without a colour bar.

    Args:
        axis (Axes): the axes
        image, heat, unseen, title, signed: as in :func:`sequence_figure`
    """
    blank(axis)
    draw_picture(axis, Backdrop(image, unseen, signed).overlay(heat))
    width = axis.get_window_extent().width / axis.figure.dpi
    axis.set_title(
        paragraph(title, int(width / _CHARACTER_9), _MOST_LINES_ON_AXES),
        fontsize=9,
        color=ink_of(axis.figure).strong,
        **AS_IT_IS,
    )


def layer_figure(
    image: npt.NDArray[np.uint8],
    heats: Iterable[Iterable[FloatArray]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    unseen: npt.NDArray[np.bool_],
    scale_label: str,
    signed: bool = False,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, npt.NDArray[Any]]:
    """Rows are tokens, columns are layers.

    Args:
        image, unseen, scale_label, signed, figure: as in :func:`token_figure`
        heats (iterable of iterable of ndarray): for each row and column a map,
            ``(height, width)``, in [0, 1], or in [-1, 1] if signed
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
        Room(left=0.1 + _CHARACTER_9 * widest, top=0.2),
        scale_label,
        signed,
        figure,
    )
    colour = made.ink.strong
    backdrop = Backdrop(image, unseen, signed)
    for axes, row, text in zip(made.axes, heats, texts):
        for axis, heat in zip(axes, row):
            draw_picture(axis, backdrop.overlay(heat))
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


def seen_image(
    image: npt.NDArray[np.uint8], unseen: npt.NDArray[np.bool_]
) -> FloatArray:
    """The image, with stripes where no image token covers it."""
    picture = image.astype(np.float64) / 255
    return np.where(unseen[..., None], striped(picture), picture)
