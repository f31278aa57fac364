"""Texts of a page: visible characters only, in their own direction."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from captum_dexar.visualization.text import label

# Longer words are cut in the flowing text; the whole of them is shown on demand.
LONGEST_WORD = 48
_LONGEST_TITLE = 80


def word_label(text: str) -> str:
    """A word as one short line; of a long one, the beginning."""
    return _cut(text, LONGEST_WORD) or "\N{OPEN BOX}"


def title_label(text: str) -> str:
    """A text as the title of a document."""
    return _cut(" ".join(text.split()), _LONGEST_TITLE)


def _cut(text: str, longest: int) -> str:
    # Every character takes a column at least: what follows is cut anyway.
    return label(text[: longest + 1], longest)


def visible(text: str) -> str:
    """A text with its line ends, and other control characters as escape sequences."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(label(line) if line.strip(" ") else "" for line in lines)


def direction(texts: Sequence[str]) -> str:
    """``"rtl"`` if the first letter is of a script written from the right."""
    for text in texts:
        for character in text:
            kind = unicodedata.bidirectional(character)
            if kind in ("L", "R", "AL"):
                return "ltr" if kind == "L" else "rtl"
    return "ltr"
