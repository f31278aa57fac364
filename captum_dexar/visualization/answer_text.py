"""An answer as running text, each word on a tint of its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import matplotlib
from captum_dexar.visualization.overlay import COLORMAP
from captum_dexar.visualization.text import (
    AS_IT_IS,
    background_of,
    Colour,
    ELLIPSIS,
    ink_of,
    label,
    luminance,
    mixed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

FONT_SIZE = 11
# Inches: a line, and the space between words.
LINE, _SPACE = 0.27, 0.09
_LONGEST_WORD = 40
# The tint of the largest weight, and how much of it there is.
_TINT_AT, _MOST_TINT = 0.78, 0.95


@dataclass(frozen=True)
class TintedWord:
    """A word of an answer as text.

    Attributes:
        text (str): the word
        share (float): its weight as a share of the largest, in [0, 1]
    """

    text: str
    share: float


@dataclass(frozen=True)
class PlacedWord:
    """A word at its place in a block of text, in inches from the upper left corner.

    Attributes:
        word (TintedWord): the word
        text (str): what is drawn of it
        left (float): where it begins
        top (float): the upper edge of its line
        width (float): its width
    """

    word: TintedWord
    text: str
    left: float
    top: float
    width: float


def placed_words(words: Sequence[TintedWord], width: float) -> list[PlacedWord]:
    """Breaks words into lines of a width in inches."""
    from matplotlib.figure import Figure

    placed: list[PlacedWord] = []
    ruler = Figure().text(0, 0, "", fontsize=FONT_SIZE, **AS_IT_IS)
    left = top = 0.0
    for word in words:
        text, size = _fitting(word.text, width, ruler)
        if left and left + size > width:
            left, top = 0.0, top + LINE
        placed.append(PlacedWord(word, text, left, top, size))
        left += size + _SPACE
    return placed


def text_height(placed: Sequence[PlacedWord]) -> float:
    """The height of placed words in inches."""
    return max((word.top for word in placed), default=-LINE) + LINE


def cut_to(placed: Sequence[PlacedWord], height: float) -> list[PlacedWord]:
    """The words in the lines that fit into a height, with dots for the others."""
    kept = [word for word in placed if not word.top or word.top + LINE <= height]
    if len(kept) < len(placed):
        kept[-1] = replace(kept[-1], word=TintedWord(ELLIPSIS, 0.0), text=ELLIPSIS)
    return kept


def draw_words(
    axis: Axes, placed: Sequence[PlacedWord], size: tuple[float, float]
) -> None:
    """Draws words on axes whose size in inches is given."""
    from matplotlib.patches import FancyBboxPatch

    background = background_of(axis.figure)
    ink = ink_of(axis.figure)
    axis.set_xlim(0, size[0])
    axis.set_ylim(size[1], 0)
    for one in placed:
        colour = ink.strong
        middle = one.top + LINE / 2
        if one.word.share > 0:
            tint = tint_of(one.word.share, background)
            colour = _readable_on(tint)
            axis.add_patch(
                FancyBboxPatch(
                    (one.left, middle - 0.4 * LINE),
                    one.width,
                    0.8 * LINE,
                    boxstyle="round,pad=0.025,rounding_size=0.05",
                    facecolor=tint,
                    linewidth=0,
                    clip_on=False,
                )
            )
        axis.text(
            one.left,
            middle,
            one.text,
            fontsize=FONT_SIZE,
            color=colour,
            va="center_baseline",
            **AS_IT_IS,
        )


def tint_of(share: float, background: Colour) -> Colour:
    """The colour behind a word, the fainter, the smaller its share."""
    red, green, blue, _ = matplotlib.colormaps[COLORMAP](_TINT_AT)
    return mixed((red, green, blue), background, _MOST_TINT * (0.12 + 0.88 * share))


def _readable_on(colour: Colour) -> Colour:
    level = luminance(colour) + 0.05
    return (0.0, 0.0, 0.0) if level / 0.05 > 1.05 / level else (1.0, 1.0, 1.0)


def _fitting(text: str, width: float, ruler: Text) -> tuple[str, float]:
    """A word cut to a width in inches, and how wide it is in the font that is set."""
    longest = _LONGEST_WORD
    while True:
        ruler.set_text(label(text, longest))
        size = ruler.get_window_extent().width / ruler.figure.dpi
        if size <= width or longest <= 2:
            return ruler.get_text(), size
        longest = max(2, min(longest - 1, int(longest * width / size)))
