"""Words of an answer, made of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Word:
    """Some tokens that make a word.

    Attributes:
        text (str): the word
        tokens (tuple of int): positions of its tokens in the answer
        weight (float or None): the largest token weight among them
        log_prob (float or None): sum of their log-probabilities
    """

    text: str
    tokens: tuple[int, ...]
    weight: float | None
    log_prob: float | None


def words_of(
    tokens: Sequence[str],
    word_starts: Tensor,
    special_tokens: Tensor,
    token_weights: Tensor | None,
    token_log_probs: Tensor | None,
    keep_special: bool,
) -> list[Word]:
    """Merges the tokens of a word.

    Args:
        tokens (sequence of str): the tokens' text, ``T``
        word_starts (Tensor): tokens that begin a word, ``(T,)``, bool
        special_tokens (Tensor): tokens that belong to no word, ``(T,)``, bool
        token_weights (Tensor or None): ``(T,)``
        token_log_probs (Tensor or None): ``(T,)``
        keep_special (bool): makes each special token a word, instead of leaving it out
    """
    groups: list[list[int]] = []
    for token in range(len(tokens)):
        if special_tokens[token]:
            if keep_special:
                groups.append([token])
        elif not groups or word_starts[token] or special_tokens[groups[-1][-1]]:
            groups.append([token])
        else:
            groups[-1].append(token)
    return [
        Word(
            text="".join(tokens[token] for token in group),
            tokens=tuple(group),
            weight=_item(token_weights, group, Tensor.max),
            log_prob=_item(token_log_probs, group, Tensor.sum),
        )
        for group in groups
    ]


def _item(values: Tensor | None, tokens: list[int], reduce: Any) -> float | None:
    return None if values is None else float(reduce(values[tokens]))
