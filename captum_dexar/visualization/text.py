"""Text in figures: shown as it is, and readable on every background."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

# For every text of a figure that comes from an answer: a dollar sign starts no formula.
AS_IT_IS: dict[str, Any] = {"parse_math": False, "usetex": False}
_SIGNS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "→"})
_ELLIPSIS = "…"
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Ink:
    """Colours of text that are readable on a figure's background.

    Attributes:
        strong (tuple of float): the colour with the largest contrast, RGB
        dim (tuple of float): a colour of lower contrast, for what matters less
    """

    strong: Colour
    dim: Colour


def ink_of(figure: Figure | SubFigure) -> Ink:
    """Black or white text, whichever has more contrast on the figure's background."""
    background = _background(figure)
    on_white, on_black = 1.05, 0.05
    luminance = _luminance(background) + 0.05
    is_light = luminance / on_black > on_white / luminance
    strong: Colour = (0.0, 0.0, 0.0) if is_light else (1.0, 1.0, 1.0)
    red, green, blue = (
        0.7 * one + 0.3 * other for one, other in zip(strong, background)
    )
    return Ink(strong, (red, green, blue))


def label(text: str, longest: int | None = None) -> str:
    """A word or token as one line of visible characters.

    Args:
        text (str): the text; line ends, tabs and a text of blanks only become signs,
            other control characters their escape sequences
        longest (int, optional): number of characters to which longer texts are cut; a
            wide character counts twice. Default: None
    """
    if text and not text.strip(" "):
        text = "␣" * len(text)
    text = text.translate(_SIGNS)
    visible = "".join(
        (
            one
            if one.isprintable() or unicodedata.category(one) in ("Zs", "Cf", "Co")
            else one.encode("unicode_escape").decode()
        )
        for one in text
    )
    if longest is None or columns(visible) <= longest:
        return visible
    while columns(visible) > longest - 1:
        visible = visible[:-1]
    return visible + _ELLIPSIS


def paragraph(text: str, width: int, most_lines: int) -> str:
    """A longer text, broken into lines of ``width`` characters and cut."""
    # A wide character takes two columns.
    width = width * len(text) // max(1, columns(text))
    lines = wrap(
        label(" ".join(text.split())),
        max(1, width),
        max_lines=most_lines,
        placeholder=_ELLIPSIS,
    )
    return "\n".join(lines)


def columns(text: str) -> int:
    """The width of a text in characters, of which wide ones count twice."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def show_as_it_is(figure: Figure) -> None:
    """Makes the texts of a finished figure plain and readable.

    For figures of Captum, which are white in every style, while text has the style's
    colour. Texts on the maps keep theirs.
    """
    import matplotlib
    from matplotlib.text import Text

    figure.set_facecolor(matplotlib.rcParams["figure.facecolor"])
    ink = ink_of(figure)
    on_maps = {id(text) for axis in figure.axes for text in axis.texts}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.update(AS_IT_IS)
        if id(text) not in on_maps:
            text.set_color(ink.strong)
    for axis in figure.axes:
        axis.tick_params(colors=ink.strong, labelcolor=ink.strong)


def _background(figure: Figure | SubFigure) -> Colour:
    """The colour behind a figure; a transparent one is assumed to lie on white."""
    from matplotlib.colors import to_rgba

    red, green, blue, alpha = to_rgba(figure.get_facecolor())
    behind: Colour = (1.0, 1.0, 1.0)
    # A subfigure's figure is the one that it lies in.
    if figure.figure is not None and figure.figure is not figure:
        behind = _background(figure.figure)
    mixed = [
        alpha * one + (1 - alpha) * other
        for one, other in zip((red, green, blue), behind)
    ]
    return mixed[0], mixed[1], mixed[2]


def _luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1."""
    linear = [
        one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4
        for one in colour
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
