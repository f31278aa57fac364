"""A part of an answer, as users select it."""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

from captum_dexar.result.words import Word

Selection: TypeAlias = int | tuple[int, int] | Sequence[int] | Word | None


def selected_tokens(selection: Selection, num_tokens: int) -> list[int]:
    """Positions of the tokens of a part of an answer, from 0; None is all of it.

    Args:
        selection (int, tuple, sequence of int or Word): as in
            :meth:`AnswerMaps.token_map_of`
        num_tokens (int): tokens of the answer

    Raises:
        IndexError: the answer has no such token, or the range is empty.
        TypeError: a position is not an integer, or a range has not two ends.
    """
    positions: Any = selection
    if selection is None:
        positions = range(num_tokens)
    elif isinstance(selection, Word):
        positions = selection.tokens
    elif isinstance(selection, tuple):
        positions = _range(selection, num_tokens)
    try:
        tokens = [_position(positions)]
    except TypeError:
        if not hasattr(positions, "__iter__"):
            raise
        tokens = list(map(_position, positions))
    if not tokens or any(not -num_tokens <= t < num_tokens for t in tokens):
        raise IndexError(
            f"The answer has {num_tokens} tokens, got the selection {selection!r}."
        )
    return [token % num_tokens for token in tokens]


def _position(given: Any) -> int:
    """A position in the answer; a truth value is none, though Python counts with it."""
    if isinstance(given, bool):
        raise TypeError(f"A token is selected by its position, got {given}.")
    return operator.index(given)


def _range(ends: tuple[int, ...], num_tokens: int) -> range:
    """The positions of a range ``(start, stop)``, either of which may be negative."""
    if len(ends) != 2:
        raise TypeError(
            f"A tuple selects a range of tokens, (start, stop), got {ends}. Pass a "
            "list for several tokens."
        )
    start, stop = map(_position, ends)
    positions = range(*(end + num_tokens * (end < 0) for end in (start, stop)))
    if not positions or positions[0] < 0 or positions[-1] >= num_tokens:
        raise IndexError(
            f"The answer has {num_tokens} tokens, got the range ({start}, {stop})."
        )
    return positions
