"""A grid of image panels with room for their text, a colour bar and a legend."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import Any, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from captum_dexar.visualization.legend import draw_legend, Legend, legend_height
from captum_dexar.visualization.overlay import COLORMAP, SIGNED_COLORMAP
from captum_dexar.visualization.text import AS_IT_IS, Ink, ink_of, paragraph
from captum_dexar.visualization.text_figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure, SubFigure

# All lengths are in inches, so that text has room whatever the number of panels.
_MARGIN = 0.1
_GAP = 0.06
_SMALLEST_PANEL = 0.1
_BAR_WIDTH = 0.09
_BAR_TICKS = 0.36
_BAR_LINE = 0.14
_TALLEST_BAR = 4.0
_LABEL_CHARACTER = 0.068
_HEADING_LINE, _HEADING_CHARACTER, _MOST_LINES = 0.26, 0.102, 4


@dataclass(frozen=True)
class Room:
    """Room for text, in inches.

    Attributes:
        above (float): above each panel. Default: 0
        below (float): below each panel. Default: 0
        left (float): left of the grid. Default: 0
        top (float): above the grid. Default: 0
    """

    above: float = 0.0
    below: float = 0.0
    left: float = 0.0
    top: float = 0.0


@dataclass(frozen=True, eq=False)
class Panels:
    """Empty panels on a figure.

    Attributes:
        figure (Figure or SubFigure): the figure
        axes (ndarray): the panels, without ticks and frame, ``(rows, columns)``
        ink (Ink): colours of text
        panel_width (float): width of a panel in inches
        size (tuple of float): width and height of the figure in inches
        heading_height (float): height of the heading in inches
    """

    figure: Any
    axes: npt.NDArray[Any]
    ink: Ink
    panel_width: float
    size: tuple[float, float]
    heading_height: float


def panels(
    grid: tuple[int, int],
    aspect: float,
    panel_width: float,
    room: Room,
    scale_label: str,
    signed: bool,
    figure: Figure | SubFigure | None = None,
    heading: str = "",
    legend: Legend = (),
) -> Panels:
    """Creates a grid of panels with a heading, a colour bar and a legend below.

    Args:
        grid (tuple of int): rows and columns
        aspect (float): height of the image by its width
        panel_width (float): width of a panel in inches on a new figure
        room (Room): room for text
        scale_label (str): label of the colour bar
        signed (bool): whether its colours diverge from zero
        figure (Figure or SubFigure, optional): the figure to draw on, whose panels are
            as large as fit. Default: None, a new one
        heading (str, optional): text above all, in bold. Default: none
        legend (sequence of pairs of str, optional): terms and what they mean.
            Default: none

    Raises:
        ValueError: the given figure is too small.
    """
    rows, columns = grid
    # Keep panels of very long images between 1:3 and 3:1.
    aspect = min(3.0, max(1 / 3, aspect))
    beside = (columns - 1) * _GAP + room.left + 2 * _MARGIN
    between = (rows - 1) * _GAP + rows * (room.above + room.below)
    between += room.top + 2 * _MARGIN
    wanted = between + rows * panel_width * aspect
    if figure is None:
        label = _fitting(scale_label, wanted - room.top)
        width = beside + _bar_room(label) + columns * panel_width
    else:
        width, height = (float(side) / figure.dpi for side in figure.bbox.size)
    characters = int((width - 2 * _MARGIN) / _HEADING_CHARACTER)
    heading = paragraph(heading, characters, _MOST_LINES)
    heading_room = _HEADING_LINE * (heading.count("\n") + 1) if heading else 0.0
    legend_room = legend_height(legend, width)
    if figure is None:
        height = heading_room + wanted + legend_room
        figure = new_figure(width, height)
    else:
        label = _fitting(scale_label, height - legend_room - heading_room - room.top)
    bar_room = _bar_room(label)
    grid_height = height - legend_room - heading_room
    size = (width - beside - bar_room) / columns, (grid_height - between) / rows
    if min(size) < _SMALLEST_PANEL:
        raise ValueError(
            f"A figure of {width:.3g} x {height:.3g} inches is too small for {rows} "
            f"rows of {columns} panels with their text. It needs about "
            f"{beside + bar_room + columns * panel_width:.3g} x "
            f"{heading_room + wanted + legend_room:.3g} inches"
            f"{', or less with legend=False' if legend else ''}."
        )
    axes = np.empty(grid, dtype=object)
    for row, column in np.ndindex(grid):
        left = _MARGIN + room.left + column * (size[0] + _GAP)
        top = _MARGIN + heading_room + room.top + room.above
        top += row * (room.above + size[1] + room.below + _GAP)
        box = left, height - top - size[1], *size
        axes[row, column] = empty_axes(figure, box, (width, height))
    ink = ink_of(figure)
    tall = min(grid_height - room.top - room.above - 2 * _MARGIN, _TALLEST_BAR)
    bar_left = width - _MARGIN - bar_room + _GAP
    middle = legend_room + (grid_height - room.top - room.above) / 2
    box = bar_left, middle - tall / 2, _BAR_WIDTH, tall
    bar = empty_axes(figure, box, (width, height))
    draw_colour_bar(bar, label, signed, ink)
    figure.text(
        _MARGIN / width,
        1 - _MARGIN / height,
        heading,
        fontsize=11,
        fontweight="bold",
        color=ink.strong,
        va="top",
        **AS_IT_IS,
    )
    draw_legend(figure, legend, (width, height), ink)
    return Panels(figure, axes, ink, size[0], (width, height), heading_room)


def blank(axis: Axes) -> None:
    """Removes ticks and frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)


def draw_picture(axis: Axes, picture: npt.NDArray[Any]) -> None:
    """Draws a picture upright and undistorted, whatever the style."""
    axis.imshow(picture.astype(np.float32), origin="upper", aspect="equal")


def draw_colour_bar(axis: Axes, label: str, signed: bool, ink: Ink) -> None:
    """Fills axes with the vertical colour scale of maps."""
    axis.set_frame_on(True)
    bar = axis.figure.colorbar(colour_scale(signed), cax=axis)
    bar.set_label(label, fontsize=8, color=ink.strong)
    bar.ax.tick_params(labelsize=7, color=ink.strong, labelcolor=ink.strong)
    bar.outline.set_edgecolor(ink.strong)


def colour_scale(signed: bool) -> ScalarMappable:
    """The colour scale of maps, for a colour bar: from 0, or -1 if signed, to 1."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if signed:
        return ScalarMappable(Normalize(-1, 1), SIGNED_COLORMAP)
    return ScalarMappable(Normalize(0, 1), COLORMAP)


def empty_axes(
    figure: Figure | SubFigure, box: tuple[float, ...], size: tuple[float, float]
) -> Axes:
    """Axes without ticks and frame.

    Args:
        figure (Figure or SubFigure): the figure
        box (tuple of float): left, bottom, width and height in inches
        size (tuple of float): width and height of the figure in inches
    """
    left, bottom, width, height = box
    axis: Axes = figure.add_axes(
        (left / size[0], bottom / size[1], width / size[0], height / size[1])
    )
    blank(axis)
    return axis


def _fitting(label: str, height: float) -> str:
    """The label of the colour bar, in lines no longer than the figure is high."""
    return fill(label, max(8, int((height - 2 * _MARGIN) / _LABEL_CHARACTER)))


def _bar_room(label: str) -> float:
    lines = label.count("\n") + 1
    return _GAP + _BAR_WIDTH + _BAR_TICKS + lines * _BAR_LINE
