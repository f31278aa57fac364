"""One figure with several methods' maps of the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from textwrap import fill
from typing import Any, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from captum_dexar.visualization.overlay import Backdrop, FloatArray, seen_image
from captum_dexar.visualization.panels import blank, colour_scale, draw_picture
from captum_dexar.visualization.text import AS_IT_IS, ink_of, label, paragraph
from captum_dexar.visualization.text_figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# All lengths are in inches, so that panels align whatever their number.
_PANEL = 1.05
_LABEL = 1.7
_GAP = 0.06
_MARGIN = 0.12
_TITLE = 0.25
_CAPTION = 0.17
_HEADER = 1.05
# Height of a name of three lines and its note.
_TEXT_HEIGHT = 0.86
_BAR = (1.5, 0.1)
_BAR_PITCH = 0.52
_NARROWEST = 4.4
_MAX_COLUMNS = 9
# Characters of the longest title above a panel, and of a line of a method's name.
_TITLE_CHARACTERS, _NAME_CHARACTERS = 13, 19
# Lines of the answer beside the image.
_MOST_LINES = 6


@dataclass(frozen=True, eq=False)
class MethodRow:
    """The row of one method.

    Attributes:
        name (str): name of the method
        note (str): text below its name, such as its run time
        heats (sequence of ndarray): one map per word, ``(height, width)``, in [0, 1],
            or in [-1, 1] if signed
        captions (sequence of str): text below each map
        signed (bool): whether the maps are signed
    """

    name: str
    note: str
    heats: Sequence[FloatArray]
    captions: Sequence[str]
    signed: bool


def comparison_figure(
    image: npt.NDArray[np.uint8],
    rows: Sequence[MethodRow],
    labels: Sequence[str],
    unseen: npt.NDArray[np.bool_],
    heading: str,
    figure: Figure | SubFigure | None = None,
) -> tuple[Any, npt.NDArray[Any]]:
    """Rows are methods, columns are words.

    Words that do not fit into one row continue in another block of rows.

    Args:
        image (ndarray): ``(height, width, 3)``, uint8
        rows (sequence of MethodRow): the methods
        labels (sequence of str): the words
        unseen (ndarray): ``(height, width)``, True where no token covers the pixel
        heading (str): text beside the image, the whole answer
        figure (Figure or SubFigure, optional): drawn on. Default: None, a new one

    Returns:
        The figure and the maps' axes, ``(methods, words)``.
    """
    page = _Page(image, rows, len(labels))
    if figure is None:
        figure = new_figure(page.width, page.height)
    ink = ink_of(figure)
    page.draw_header(figure, seen_image(image, unseen), heading, rows)
    axes = np.empty((len(rows), len(labels)), dtype=object)
    for index, row in enumerate(rows):
        backdrop = Backdrop(image, unseen, row.signed)
        for block in range(page.num_blocks):
            _draw_name(figure, page, index, block, row)
        for word, (heat, caption) in enumerate(zip(row.heats, row.captions)):
            block, column = divmod(word, page.columns)
            axis = page.axes(figure, *page.panel(index, block, column))
            draw_picture(axis, backdrop.overlay(heat))
            axis.set_xlabel(caption, fontsize=7, color=ink.dim, labelpad=1.5)
            if index == 0:
                axis.set_title(
                    label(labels[word], _TITLE_CHARACTERS),
                    fontsize=9.5,
                    fontweight="bold",
                    pad=4,
                    color=ink.strong,
                    **AS_IT_IS,
                )
            axes[index, word] = axis
    return figure, axes


class _Page:
    """The positions of all parts, in inches from the top left corner."""

    def __init__(
        self, image: npt.NDArray[np.uint8], rows: Sequence[MethodRow], num_words: int
    ) -> None:
        # Keep panels of very long images between 1:2 and 2:1.
        self.panel_height = _PANEL * min(2.0, max(0.5, image.shape[0] / image.shape[1]))
        # Equal blocks: ten words become five and five, not nine and one.
        self.num_blocks = max(1, ceil(num_words / _MAX_COLUMNS))
        self.columns = max(1, ceil(num_words / self.num_blocks))
        has_captions = any(caption for row in rows for caption in row.captions)
        row_height = self.panel_height + (_CAPTION if has_captions else 0)
        self.pitch = max(row_height, _TEXT_HEIGHT) + _GAP
        self.block_height = _TITLE + len(rows) * self.pitch
        self.header = max(_HEADER, self.panel_height)
        panels = max(self.columns * (_PANEL + _GAP), _NARROWEST)
        self.width = 2 * _MARGIN + _LABEL + panels
        blocks = self.num_blocks * (self.block_height + _MARGIN)
        self.height = 2 * _MARGIN + self.header + blocks

    def panel(self, row: int, block: int, column: int) -> tuple[float, ...]:
        """Left, top, width and height of a map's panel."""
        left = _MARGIN + _LABEL + column * (_PANEL + _GAP)
        return left, self.row_top(row, block), _PANEL, self.panel_height

    def row_top(self, row: int, block: int) -> float:
        """The upper edge of a row of maps."""
        above = 2 * _MARGIN + self.header + block * (self.block_height + _MARGIN)
        top: float = above + _TITLE + row * self.pitch
        return top

    def axes(self, figure: Figure | SubFigure, *box: float) -> Axes:
        """Axes without ticks or frame, at left, top, width and height."""
        left, top, width, height = box
        bottom = self.height - top - height
        axis: Axes = figure.add_axes(
            (
                left / self.width,
                bottom / self.height,
                width / self.width,
                height / self.height,
            )
        )
        blank(axis)
        return axis

    def text(
        self,
        figure: Figure | SubFigure,
        left: float,
        top: float,
        text: str,
        **kwargs: Any,
    ) -> None:
        """Text at left and top."""
        x, y = left / self.width, 1 - top / self.height
        figure.text(x, y, text, **kwargs, **AS_IT_IS)

    def draw_header(
        self,
        figure: Figure | SubFigure,
        picture: FloatArray,
        heading: str,
        rows: Sequence[MethodRow],
    ) -> None:
        """The image, the answer and the colour scales of the rows."""
        middle = _MARGIN + self.header / 2
        top = middle - self.panel_height / 2
        axis = self.axes(figure, _MARGIN, top, _PANEL, self.panel_height)
        draw_picture(axis, picture)
        ink = ink_of(figure)
        bars_left = self.width - _MARGIN - _BAR[0] - 0.1
        room = bars_left - _MARGIN - _LABEL - 0.25
        self.text(
            figure,
            _MARGIN + _LABEL,
            middle,
            paragraph(heading, max(12, int(room / 0.078)), _MOST_LINES),
            fontsize=10,
            color=ink.strong,
            style="italic",
            va="center",
        )
        scales = [
            (signed, title)
            for signed, title in (
                (False, "share of the map's largest value"),
                (True, "lowers (blue), raises (red)"),
            )
            if any(row.signed == signed for row in rows)
        ]
        top = middle - (len(scales) - 1) * _BAR_PITCH / 2 - _BAR[1] / 2
        for signed, title in scales:
            bar_axis = self.axes(figure, bars_left, top, *_BAR)
            bar = figure.colorbar(
                colour_scale(signed), cax=bar_axis, orientation="horizontal"
            )
            bar.set_ticks([-1, 0, 1] if signed else [0, 0.5, 1])
            bar.ax.tick_params(
                labelsize=7,
                length=2,
                pad=1.5,
                color=ink.strong,
                labelcolor=ink.strong,
            )
            bar.outline.set_linewidth(0.4)
            bar.outline.set_edgecolor(ink.strong)
            bar_axis.set_title(title, fontsize=7.5, pad=2.5, color=ink.strong)
            top += _BAR_PITCH


def _draw_name(
    figure: Figure | SubFigure, page: _Page, index: int, block: int, row: MethodRow
) -> None:
    middle = page.row_top(index, block) + max(page.panel_height, _TEXT_HEIGHT) / 2
    name = fill(row.name, _NAME_CHARACTERS)
    ink = ink_of(figure)
    # The name extends upwards from the middle, its note downwards.
    page.text(
        figure,
        _MARGIN,
        middle,
        name,
        fontsize=9,
        fontweight="bold",
        va="bottom",
        color=ink.strong,
    )
    page.text(
        figure, _MARGIN, middle + 0.05, row.note, fontsize=7.5, color=ink.dim, va="top"
    )
