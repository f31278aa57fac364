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
ELLIPSIS = "…"
# They turn the direction of all text that follows.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Ink:
    """Colours of text that are readable on a figure's background.

    Attributes:
        strong (tuple of float): the colour with the largest contrast, RGB
        dim (tuple of float): a colour of lower contrast, for what matters less
        faint (tuple of float): a colour near the background, not for text
    """

    strong: Colour
    dim: Colour
    faint: Colour


def ink_of(figure: Figure | SubFigure) -> Ink:
    """Black or white text, whichever has more contrast on the figure's background."""
    background = background_of(figure)
    on_white, on_black = 1.05, 0.05
    level = luminance(background) + 0.05
    is_light = level / on_black > on_white / level
    strong: Colour = (0.0, 0.0, 0.0) if is_light else (1.0, 1.0, 1.0)
    return Ink(strong, mixed(strong, background, 0.7), mixed(strong, background, 0.15))


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """A share of a colour mixed with the rest of another."""
    red, green, blue = (
        share * one + (1 - share) * rest for one, rest in zip(colour, other)
    )
    return red, green, blue


def label(text: str, longest: int | None = None) -> str:
    """A word or token as one line of visible characters.

    Args:
        text (str): the text; line ends, tabs and a text of blanks only become signs,
            other characters that can't be seen or turn the direction of text their
            escape sequences
        longest (int, optional): number of characters to which longer texts are cut; a
            wide character counts twice. Default: None
    """
    if text and not text.strip(" "):
        text = "␣" * len(text)
    text = text.translate(_SIGNS)
    # A character is at least one column wide, and an escape sequence longer.
    shown = text if longest is None else text[: longest + 1]
    visible = "".join(map(_visible, shown))
    if visible and all(unicodedata.category(one) == "Cf" for one in visible):
        visible = "".join(map(_escaped, shown))
    if longest is None or columns(visible) <= longest:
        return visible
    kept, width = 0, 1
    while kept < len(visible) and width + columns(visible[kept]) <= longest:
        width += columns(visible[kept])
        kept += 1
    return visible[:kept] + ELLIPSIS


def _visible(character: str) -> str:
    if character in _DIRECTIONS:
        return _escaped(character)
    kept = unicodedata.category(character) in ("Zs", "Cf", "Co")
    return character if character.isprintable() or kept else _escaped(character)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def paragraph(text: str, width: int, most_lines: int) -> str:
    """A longer text, broken into lines of ``width`` characters and cut."""
    # A wide character takes two columns.
    width = width * len(text) // max(1, columns(text))
    lines = wrap(
        label(" ".join(text.split())),
        max(1, width),
        max_lines=most_lines,
        placeholder=ELLIPSIS,
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


def background_of(figure: Figure | SubFigure) -> Colour:
    """The colour behind a figure; a transparent one is assumed to lie on white."""
    from matplotlib.colors import to_rgba

    red, green, blue, alpha = to_rgba(figure.get_facecolor())
    behind: Colour = (1.0, 1.0, 1.0)
    # A subfigure's figure is the one that it lies in.
    if figure.figure is not None and figure.figure is not figure:
        behind = background_of(figure.figure)
    return mixed((red, green, blue), behind, alpha)


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1."""
    linear = [
        one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4
        for one in colour
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
