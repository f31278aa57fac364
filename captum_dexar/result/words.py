"""Merges the tokens of an answer into words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


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


def words_of(
    tokens: Sequence[str],
    word_starts: Tensor,
    special_tokens: Tensor,
    token_weights: Tensor | None,
    token_log_probs: Tensor | None,
    keep_special: bool,
) -> list[Word]:
    """Merges tokens into words; special tokens become words or are left out."""
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
