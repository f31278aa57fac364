"""Merges the tokens of an answer into words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex
from torch import Tensor

# Characters of scripts that are written without blanks between words (line breaking
# classes of UAX #14: ideographs and kana, South East Asian scripts), and emoji.
_WITHOUT_BLANKS = regex.compile(
    r"[\p{lb=ID}\p{lb=CJ}\p{lb=SA}\p{Extended_Pictographic}]"
)
_PUNCTUATION = regex.compile(r"(?!\p{Extended_Pictographic})[\p{P}\p{S}]")
_OPENING = regex.compile(r"[\p{Ps}\p{Pi}]")
_WIDE = regex.compile(r"[\p{ea=W}\p{ea=F}]")
# Default word boundaries of UAX #29.
_BOUNDARY = regex.compile(r"\b", regex.WORD)


@dataclass(frozen=True)
class Word:
    """A word of an answer.

    Attributes:
        text (str): the word
        tokens (tuple of int): positions of its tokens in the answer
        weight (float or None): the largest weight of its tokens
        log_prob (float or None): the sum of their log-probabilities
    """

    text: str
    tokens: tuple[int, ...]
    weight: float | None
    log_prob: float | None


def begins_word(text: str, place: int) -> bool:
    """Whether a word begins at a place of a text.

    A word begins after white space and, next to a character of a script that is written
    without blanks, where UAX #29 has a boundary. Punctuation stays with the word that
    it touches: the one before, or after an opening bracket or quotation mark.

    Args:
        text (str): the text of an answer up to and including a token
        place (int): where the text of the token begins
    """
    if place == len(text):
        return place == 0
    if place == 0 or text[place - 1].isspace() or text[place].isspace():
        return True
    left = place - 1
    while left >= 0 and _PUNCTUATION.match(text[left]):
        left -= 1
    if left < 0 or text[left].isspace():
        # Only punctuation stands between the last blank and here.
        return False
    first = text[place]
    is_next = any(_WITHOUT_BLANKS.match(one) for one in (text[left], first))
    if _PUNCTUATION.match(first):
        # Brackets of these scripts are wide.
        is_next = bool(_OPENING.match(first) and (is_next or _WIDE.match(first)))
    if not is_next or _OPENING.match(text[place - 1]):
        return False
    return _BOUNDARY.match(text, place) is not None


def without_punctuation(text: str) -> str:
    """A word without the punctuation before and after it."""
    first, last = 0, len(text)
    while first < last and _PUNCTUATION.match(text[first]):
        first += 1
    while last > first and _PUNCTUATION.match(text[last - 1]):
        last -= 1
    return text[first:last]


def word_groups(
    tokens: Sequence[str],
    word_starts: Tensor,
    special_tokens: Tensor,
    keep_special: bool,
) -> list[list[int]]:
    """Positions of the tokens of each word; special tokens stand alone or are left out.

    White space and tokens that end within a character belong to the word that follows,
    or to the last one before a special token.
    """
    groups: list[list[int]] = []
    run: list[list[int]] = []
    for token in range(len(tokens)):
        if special_tokens[token]:
            groups += _without_blank_end(run, tokens)
            run = []
            if keep_special:
                groups.append([token])
        elif not run or (word_starts[token] and not _is_blank(run[-1], tokens)):
            run.append([token])
        else:
            run[-1].append(token)
    return groups + _without_blank_end(run, tokens)


def words_of(
    tokens: Sequence[str],
    groups: Sequence[Sequence[int]],
    token_weights: Tensor | None,
    token_log_probs: Tensor | None,
) -> list[Word]:
    """One word for each group of tokens."""
    return [
        Word(
            text=_text(group, tokens),
            tokens=tuple(group),
            weight=_item(token_weights, group, Tensor.max),
            log_prob=_item(token_log_probs, group, Tensor.sum),
        )
        for group in groups
    ]


def _is_blank(group: list[int], tokens: Sequence[str]) -> bool:
    return all(not tokens[token].strip() for token in group)


def _without_blank_end(
    groups: list[list[int]], tokens: Sequence[str]
) -> list[list[int]]:
    if len(groups) > 1 and _is_blank(groups[-1], tokens):
        *groups, before, blank = groups
        groups.append(before + blank)
    return groups


def _text(group: Sequence[int], tokens: Sequence[str]) -> str:
    joined = "".join(tokens[token] for token in group)
    return joined.strip() or joined


def _item(values: Tensor | None, tokens: Sequence[int], reduce: Any) -> float | None:
    return None if values is None else float(reduce(values[list(tokens)]))
