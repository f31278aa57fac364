"""Text in a terminal: safe to print, and tinted."""

import unicodedata

_SIGNS = {"\n": "↵", "\r": "↵", "\t": "→"}
# Joiners make one sign of several emoji or letters.
_JOINERS = "\u200c\u200d"
_ELLIPSIS = "…"
# For terminals that lack the signs.
_PLAIN = {
    "█": "#",
    "␣": "_",
    "↵": "\\n",
    "→": "\\t",
    _ELLIPSIS: "...",
}
_RESET = "\x1b[0m"
# From weak to strong, in the order of the colour map of the figures: colours of the
# 256-colour palette, as text and behind text, and whether text on them is white.
_SHADES = (
    (97, 53, True),
    (126, 89, True),
    (161, 125, True),
    (203, 167, True),
    (208, 208, False),
    (214, 220, False),
)


def terminal_label(
    text: str, longest: int | None = None, encoding: str = "utf-8"
) -> str:
    """A word, a token or a title as one line that a terminal shows and never obeys.

    Args:
        text (str): the text; line ends, tabs and a text of blanks only become signs,
            other control characters and those that turn the direction of writing their
            escape sequences
        longest (int, optional): number of cells to which longer texts are cut.
            Default: None
        encoding (str, optional): the terminal's. Characters that it lacks become escape
            sequences. Default: "utf-8"
    """
    # What is cut away is not worth escaping: a token may have 10,000 characters.
    if longest is not None:
        text = text[: 8 * longest + 1]
    if text and not text.strip(" "):
        text = "␣" * len(text)
    shown = "".join(_printed(_SIGNS.get(one, one), encoding) for one in text)
    if longest is None or cells(shown) <= longest:
        return shown
    ellipsis = _printed(_ELLIPSIS, encoding)
    while shown and cells(shown) > longest - len(ellipsis):
        shown = shown[:-1]
    return shown + ellipsis


def terminal_text(text: str, encoding: str = "utf-8") -> str:
    """A longer text as :func:`terminal_label`; lines, tabs and blanks stay."""
    kept = "\n\t "
    return "".join(
        one if one in kept else terminal_label(one, encoding=encoding) for one in text
    )


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: wide characters two, those that join
    the one before none."""
    return sum(map(_cells, text))


def bar(
    share: float, length: int, encoding: str = "utf-8", colour: bool = False
) -> str:
    """A bar, filled up to a share of its length and padded with blanks.

    Args:
        share (float): from 0 to 1
        length (int): cells of the whole bar
        encoding (str, optional): the terminal's. Default: "utf-8"
        colour (bool, optional): whether it is coloured by the share. Default: False
    """
    filled = round(length * min(1.0, max(0.0, share)))
    drawn = _printed("█", encoding) * filled
    if colour and filled:
        drawn = f"\x1b[38;5;{_shade(share)[0]}m{drawn}{_RESET}"
    return drawn + " " * (length - filled)


def tinted(text: str, share: float) -> str:
    """A printable text on a background whose colour says how large its weight is.

    Args:
        text (str): from :func:`terminal_label`
        share (float): its weight, as a share of the largest; 0 leaves it as it is
    """
    if not share > 0:
        return text
    _, behind, on_white = _shade(share)
    return f"\x1b[38;5;{231 if on_white else 16};48;5;{behind}m{text}{_RESET}"


def _shade(share: float) -> tuple[int, int, bool]:
    place = int(len(_SHADES) * min(1.0, share))
    return _SHADES[min(place, len(_SHADES) - 1)]


def _printed(character: str, encoding: str) -> str:
    """A character, or what stands for it in this encoding."""
    escaped = character.encode("unicode_escape").decode()
    # Spaces, and characters for private use, are for the terminal's font.
    is_shown = character.isprintable() or unicodedata.category(character) in (
        "Zs",
        "Co",
    )
    if not is_shown and character not in _JOINERS:
        return escaped
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return _PLAIN.get(character, escaped)
    return character


def _cells(character: str) -> int:
    if character in _JOINERS or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
