"""A part of an answer, as users select it."""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

from captum_dexar.result.words import without_punctuation, Word

Selection: TypeAlias = int | tuple[int, int] | Sequence[int] | Word | None
# A word by its index or its text, or tokens by their positions.
WordChoice: TypeAlias = int | str | tuple[int, int] | Sequence[int] | Word | None
# Words that an error message lists.
_MOST_NAMED = 20


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


def chosen_word(choice: WordChoice, words: Sequence[Word]) -> Selection:
    """The word that an index or a text stands for; other selections stay as they are.

    Args:
        choice (int, str, tuple, sequence of int or Word): an index in ``words``,
            negative ones from the end; the text of a word that occurs once, with or
            without the punctuation around it; or a selection of tokens
        words (sequence of Word): the answer's words

    Raises:
        IndexError: there is no word of this index.
        TypeError: the index is a truth value.
        ValueError: no word, or more than one, has this text.
    """
    if isinstance(choice, str):
        return _word_of_text(choice, words)
    # PyTorch takes a tensor of one element for an index, whatever its axes.
    if choice is None or isinstance(choice, Word) or _has_axes(choice):
        return choice
    try:
        index = _position(choice)
    except TypeError:
        if not hasattr(choice, "__iter__"):
            raise
        return choice
    if not -len(words) <= index < len(words):
        raise IndexError(f"The answer has {len(words)} words, got the index {index}.")
    return words[index]


def _word_of_text(text: str, words: Sequence[Word]) -> Word:
    found = [index for index, word in enumerate(words) if word.text == text]
    if not found:
        found = [
            index
            for index, word in enumerate(words)
            if without_punctuation(word.text) == text
        ]
    if len(found) == 1:
        return words[found[0]]
    if found:
        raise ValueError(
            f"{text!r} occurs {len(found)} times in the answer. Pass one of its "
            f"indices in words(): {', '.join(map(str, found))}."
        )
    known = ", ".join(repr(word.text) for word in words[:_MOST_NAMED])
    more = ", ..." if len(words) > _MOST_NAMED else ""
    raise ValueError(f"The answer has no word {text!r}. Its words are {known}{more}.")


def _has_axes(choice: Any) -> bool:
    return bool(getattr(choice, "ndim", 0))


def _position(given: Any) -> int:
    """A position in the answer; a truth value is none, though Python counts with it."""
    if isinstance(given, bool):
        raise TypeError(f"A part is selected by its position, got {given}.")
    try:
        return operator.index(given)
    except TypeError:
        raise TypeError(
            f"A part is selected by the positions of its tokens, got {given!r:.60}. "
            "Those of a word are the tokens of one of words()."
        ) from None


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
