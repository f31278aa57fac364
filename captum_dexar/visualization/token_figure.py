"""Figures with one panel per word, drawn from plain arrays with matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from captum_dexar.visualization.answer_text import (
    cut_to,
    draw_words,
    placed_words,
    text_height,
    TintedWord,
)
from captum_dexar.visualization.legend import Legend
from captum_dexar.visualization.overlay import Backdrop, FloatArray, seen_image
from captum_dexar.visualization.panels import (
    blank,
    draw_picture,
    empty_axes,
    Panels,
    panels,
    Room,
)
from captum_dexar.visualization.text import AS_IT_IS, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.patches import Rectangle

_PANEL_WIDTH = 1.55
# Few panels are larger, so that there is room for the legend.
_LARGE_PANEL_WIDTH, _FEW_PANELS_WIDTH = 2.5, 6.2
_MAX_COLUMNS, _FEWEST_COLUMNS, _WIDEST = 8, 5, 12.8
# Panels of images that are wider than this, by height to width, are wider.
_WIDE = 0.6
_ABOVE, _BELOW = 0.24, 0.3
_CHARACTER_BOLD = 0.091
# Below a panel, in inches: where a word's bar begins, and its height.
_BAR_OFFSET, _BAR_HEIGHT = 0.045, 0.045
_BAR_COLOUR = "#f1731d"  # of COLORMAP, at 0.68
# Words with smaller shares have titles that stand out less.
_STRONG = 0.25
# Around the text of an answer, in inches.
_MARGIN, _TEXT_GAP, _BAR_ROOM = 0.1, 0.12, 0.75


@dataclass(frozen=True)
class WordPanel:
    """What is drawn of a word beside its map.

    Attributes:
        text (str): the word
        caption (str): text below the panel, such as its weight
        opacity (float): of its map, in [0, 1]; 0 leaves the plain image
        share (float or None): length of the bar below the panel, in [0, 1]; None for no
            bar
    """

    text: str
    caption: str
    opacity: float
    share: float | None


def token_figure(
    image: npt.NDArray[np.uint8],
    words: Sequence[WordPanel],
    heats: Iterable[FloatArray],
    unseen: npt.NDArray[np.bool_],
    heading: str,
    image_title: str,
    scale_label: str,
    legend: Legend = (),
    signed: bool = False,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, npt.NDArray[Any]]:
    """The image, then one panel per word, all on one colour scale.

    Args:
        image (ndarray): ``(height, width, 3)``, uint8
        words (sequence of WordPanel): the words
        heats (iterable of ndarray): each word's map, ``(height, width)``, in [0, 1],
            or in [-1, 1] if signed
        unseen (ndarray): ``(height, width)``, True where no token covers the pixel
        heading (str): text above the panels; empty for none
        image_title (str): text above the image
        scale_label (str): label of the colour bar
        legend (sequence of pairs of str, optional): terms and what they mean, below the
            panels. Default: none
        signed (bool, optional): uses a diverging colour scale. Default: False
        figure (Figure or SubFigure, optional): drawn on. Default: None, a new one

    Returns:
        The figure and its axes, the image's first.
    """
    num_panels = len(words) + 1
    aspect = image.shape[0] / image.shape[1]
    num_columns = min(_columns(aspect), num_panels)
    made = panels(
        (ceil(num_panels / num_columns), num_columns),
        aspect,
        _panel_width(num_columns, aspect),
        Room(above=_ABOVE, below=_BELOW),
        scale_label,
        signed,
        figure,
        heading,
        legend,
    )
    flat = made.axes.ravel()
    draw_picture(flat[0], seen_image(image, unseen))
    flat[0].set_title(image_title, fontsize=9, color=made.ink.strong)
    _draw_maps(made, flat[1:], Backdrop(image, unseen, signed), words, heats)
    for axis in flat[num_panels:]:
        axis.set_visible(False)
    return made.figure, made.axes


def word_figure(
    image: npt.NDArray[np.uint8],
    answer: Sequence[TintedWord],
    words: Sequence[WordPanel],
    heats: Iterable[FloatArray],
    unseen: npt.NDArray[np.bool_],
    heading: str,
    image_title: str,
    scale_label: str,
    legend: Legend = (),
    signed: bool = False,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, npt.NDArray[Any]]:
    """The answer as tinted text; below it the image and the maps of some words.

    Args:
        answer (sequence of TintedWord): all words of the answer
        words (sequence of WordPanel): the words that have a panel
        image, heats, unseen, heading, image_title, scale_label, legend, signed, figure:
            as in :func:`token_figure`

    Returns:
        The figure and its axes: the text's, the image's, and one per map.
    """
    num_columns = len(words) + 1
    aspect = image.shape[0] / image.shape[1]
    panel_width = _panel_width(num_columns, aspect)
    if figure is None:
        text_width = num_columns * panel_width
    else:
        text_width = figure.bbox.width / figure.dpi - _BAR_ROOM
    placed = placed_words(answer, text_width)
    text_room = text_height(placed) + _TEXT_GAP
    made = panels(
        (1, num_columns),
        aspect,
        panel_width,
        Room(above=_ABOVE, below=_BELOW, top=text_room),
        scale_label,
        signed,
        figure,
        heading,
        legend,
    )
    size = text_width, text_height(placed)
    bottom = made.size[1] - _MARGIN - made.heading_height - size[1]
    box = _MARGIN, bottom, *size
    text = empty_axes(made.figure, box, made.size)
    draw_words(text, placed, size)
    plain, *mapped = made.axes.ravel()
    draw_picture(plain, seen_image(image, unseen))
    plain.set_title(image_title, fontsize=9, color=made.ink.strong)
    _draw_maps(made, mapped, Backdrop(image, unseen, signed), words, heats)
    axes = np.empty(num_columns + 1, dtype=object)
    axes[:] = [text, plain, *mapped]
    return made.figure, axes


def word_panel(axis: Axes, answer: Sequence[TintedWord]) -> None:
    """Draws the answer as tinted text on given axes; lines that do not fit are cut.

    Args:
        axis (Axes): the axes
        answer (sequence of TintedWord): the words
    """
    blank(axis)
    box = axis.get_window_extent()
    size = box.width / axis.figure.dpi, box.height / axis.figure.dpi
    draw_words(axis, cut_to(placed_words(answer, size[0]), size[1]), size)


def _draw_maps(
    made: Panels,
    axes: Iterable[Axes],
    backdrop: Backdrop,
    words: Iterable[WordPanel],
    heats: Iterable[FloatArray],
) -> None:
    for axis, word, heat in zip(axes, words, heats):
        draw_picture(axis, backdrop.overlay(heat, word.opacity))
        _draw_word(axis, word, made)


def _columns(aspect: float) -> int:
    """Panels in a row: fewer for wide images, whose panels would be low."""
    return max(_FEWEST_COLUMNS, int(_MAX_COLUMNS * min(1.0, aspect / _WIDE)))


def _panel_width(num_columns: int, aspect: float) -> float:
    most = max(_PANEL_WIDTH, _WIDEST / num_columns)
    wanted = max(_PANEL_WIDTH * _WIDE / aspect, _FEW_PANELS_WIDTH / num_columns)
    return min(most, _LARGE_PANEL_WIDTH, max(_PANEL_WIDTH, wanted))


def _draw_word(axis: Axes, word: WordPanel, made: Panels) -> None:
    """The word above its panel; below, its bar and its caption."""
    is_strong = word.share is None or word.share >= _STRONG
    colour = made.ink.strong if is_strong else made.ink.dim
    axis.set_title(
        label(word.text, max(2, int(made.panel_width / _CHARACTER_BOLD))),
        fontsize=10,
        fontweight="bold" if is_strong else "normal",
        color=colour,
        **AS_IT_IS,
    )
    axis.set_xlabel(word.caption, fontsize=7.5, color=colour, labelpad=8)
    if word.share is None:
        return
    for length, bar_colour in ((1.0, made.ink.faint), (word.share, _BAR_COLOUR)):
        axis.add_patch(_bar(axis, length, bar_colour))


def _bar(axis: Axes, length: float, colour: Any) -> Rectangle:
    """A bar below a panel, as long as a share of the panel's width."""
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import blended_transform_factory, ScaledTranslation

    # Along the panel's width, and in inches from its lower edge.
    corner: Any = axis.transAxes
    inches = axis.figure.dpi_scale_trans + ScaledTranslation(0, 0, corner)
    return Rectangle(
        (0, -_BAR_OFFSET - _BAR_HEIGHT),
        length,
        _BAR_HEIGHT,
        transform=blended_transform_factory(axis.transAxes, inches),
        facecolor=colour,
        linewidth=0,
        clip_on=False,
    )
