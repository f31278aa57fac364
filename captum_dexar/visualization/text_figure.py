"""Figures that pyplot does not know of, and whose text stays text in vector files."""

from __future__ import annotations

from io import BytesIO
from typing import Any, cast, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Outlines of letters can be neither searched nor edited.
_TEXT_STAYS_TEXT: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42}
# Of figures at the end of a cell: a notebook keeps every one.
_NOTEBOOK_DPI = 80


class TextFigure(Figure):
    """A figure whose text stays text in SVG, PDF and PostScript."""

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """As matplotlib's, with text as text; settings of pyplot stay as they are."""
        with matplotlib.rc_context(_TEXT_STAYS_TEXT):
            super().savefig(fname, **kwargs)


class Plot(NamedTuple):
    """A figure and its axes. Notebooks show the figure at the end of a cell.

    Attributes:
        figure (Figure or SubFigure): the figure
        axes (Axes or ndarray): its axes
    """

    figure: Any
    axes: Any

    def _repr_png_(self) -> bytes | None:
        # A figure of the user's is shown by its owner.
        if not isinstance(self.figure, TextFigure):
            return None
        png = BytesIO()
        self.figure.savefig(png, format="png", dpi=min(self.figure.dpi, _NOTEBOOK_DPI))
        return _smaller(png)


def _smaller(png: BytesIO) -> bytes:
    """The same picture in about 15 % fewer bytes."""
    smaller = BytesIO()
    with Image.open(png) as picture:
        has_alpha = picture.mode == "RGBA"
        if has_alpha and picture.getchannel("A").getextrema() == (255, 255):
            drawn = picture.convert("RGB")
        else:
            drawn = picture
        drawn.save(smaller, format="PNG", optimize=True)
    return smaller.getvalue()


def new_figure(width: float, height: float) -> TextFigure:
    """A figure of a size in inches that pyplot does not keep open."""
    # The layout is ours, whatever the style's.
    figure = TextFigure(figsize=(width, height), layout=cast(Any, "none"))
    # Whose pixels can be read, as those of pyplot's figures.
    FigureCanvasAgg(figure)
    return figure


def show_figure(figure: Any) -> None:
    """Shows a figure as ``pyplot.show()`` shows its own, and leaves none open."""
    import matplotlib.pyplot as plt

    if not isinstance(figure, TextFigure):
        # The user's own, which lies in pyplot or in a program's window.
        plt.show()
        return
    # pyplot takes any function that makes a figure for a class.
    plt.figure(FigureClass=cast(Any, lambda **_: figure))
    plt.show()
    # Where showing does not wait, the window is the user's.
    if not plt.isinteractive():
        plt.close(figure)
