"""Checks the axes or the figure that a plot is to draw on."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure


def check_axes_or_figure(ax: Any, fig: Any, on_ax: str, on_fig: str) -> None:
    """Checks where a plot is drawn that takes axes or a figure.

    Args:
        ax (Axes or None): the given axes
        fig (Figure, SubFigure or None): the given figure
        on_ax (str): what is drawn on axes
        on_fig (str): what is drawn on a figure

    Raises:
        TypeError: one of them is of another type.
        ValueError: both are given.
    """
    if ax is not None and fig is not None:
        raise ValueError(
            f"ax and fig were both given. Pass ax for {on_ax}, or fig for {on_fig}."
        )
    if ax is not None and not isinstance(ax, Axes):
        advice = f"Pass fig for {on_fig}."
        if isinstance(ax, (np.ndarray, list, tuple)):
            advice = "Pass one of them, such as axes[0]."
        raise TypeError(f"ax must be a matplotlib Axes, got {_kind(ax)}. {advice}")
    check_figure(fig)


def check_figure(fig: Any) -> None:
    """Checks the figure that a plot is drawn on.

    Raises:
        TypeError: it is neither a figure nor None.
    """
    if fig is None or isinstance(fig, (Figure, SubFigure)):
        return
    advice = "Make one with matplotlib.pyplot.figure()."
    if isinstance(fig, Axes):
        advice = "Its figure is ax.figure."
    raise TypeError(
        f"fig must be a matplotlib Figure or SubFigure, got {_kind(fig)}. {advice}"
    )


def _kind(given: Any) -> str:
    return type(given).__name__
