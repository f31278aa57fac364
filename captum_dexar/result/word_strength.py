"""How strongly the image supports each word, for figures."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.words import Word
from captum_dexar.visualization import WordPanel
from torch import Tensor

# Opacity of the map of the smallest weight that is not zero.
FAINTEST = 0.3
SCALES = ("shared", "word")
NO_EVIDENCE = "no visual evidence"


def strengths(result: AnswerMaps, parts: Sequence[Word]) -> list[float]:
    """The strength of each part of an answer as a share of the strongest, in [0, 1].

    By weights if the method has them, and otherwise by what is stretched to the full
    scale: the spread of the part's attributions, or their largest absolute value if the
    result is signed. A part whose map is zero has none.
    """
    if result.token_weights is None:
        sizes = [_size(result.values_of(part), result.is_signed) for part in parts]
    else:
        sizes = [0.0 if is_zero(result, part) else part.weight or 0.0 for part in parts]
    return shares_of(torch.tensor(sizes, dtype=torch.float64)).tolist()


def shares_of(sizes: Tensor) -> Tensor:
    """Sizes as shares of the largest; NaN counts as zero."""
    finite: Tensor = sizes.double().nan_to_num(nan=0.0).clamp(min=0)
    largest = finite.max() if len(finite) else finite.sum()
    return finite / largest.where(largest > 0, torch.ones_like(largest))


def word_panels(
    result: AnswerMaps, parts: Sequence[Word], scale: str
) -> list[WordPanel]:
    """What is drawn of each part of an answer beside its map.

    Args:
        result (AnswerMaps): the result
        parts (sequence of Word): all parts of the answer
        scale (str): ``"shared"``: maps are the more transparent, the weaker the part;
            ``"word"``: all maps are opaque
    """
    checked_scale(scale)
    shares = strengths(result, parts)
    return [_panel(result, *both, scale) for both in zip(parts, shares)]


def _panel(result: AnswerMaps, part: Word, share: float, scale: str) -> WordPanel:
    is_shared = scale == "shared"
    has_bar = is_shared or result.token_weights is not None
    if is_zero(result, part):
        return WordPanel(part.text, NO_EVIDENCE, 0.0, 0.0 if has_bar else None)
    if part.weight is not None:
        caption = f"weight {part.weight:.3g}"
        if is_shared and share == 0:
            caption += " (not above text)"
    else:
        caption = f"{share:.0%}" if is_shared else ""
    opacity = opacity_of(share) if is_shared else 1.0
    return WordPanel(part.text, caption, opacity, share if has_bar else None)


def opacity_of(share: float) -> float:
    """The opacity of a map; that of a part without any support is plain."""
    return FAINTEST + (1 - FAINTEST) * share if share > 0 else 0.0


def is_zero(result: AnswerMaps, part: Any) -> bool:
    """Whether a part's map is zero: nothing in the images stands out for it."""
    maps = result.token_map_of(part)
    maps = [maps] if isinstance(maps, Tensor) else maps
    return not any(bool(one.any()) for one in maps)


def strongest(shares: Sequence[float], max_words: int | None) -> list[int]:
    """The places of the strongest parts, in the answer's order; None keeps all."""
    places = list(range(len(shares)))
    if max_words is None:
        return places
    if isinstance(max_words, bool) or operator.index(max_words) < 1:
        raise ValueError(
            f"max_words must be a positive number of words, got {max_words!r}."
        )
    return sorted(sorted(places, key=lambda place: -shares[place])[:max_words])


def checked_scale(scale: str) -> None:
    """Raises ValueError unless there is such a scale."""
    if scale not in SCALES:
        raise ValueError(
            f"scale must be {' or '.join(map(repr, SCALES))}, got {scale!r}."
        )


def _size(values: Tensor, signed: bool) -> float:
    if not values.numel():
        return 0.0
    return float(values.abs().max() if signed else values.max() - values.min())
