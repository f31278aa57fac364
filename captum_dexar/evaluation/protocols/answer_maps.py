"""Maps of the whole answer that protocols put together themselves."""

from __future__ import annotations

import string
import warnings

import torch
from captum_dexar.evaluation.dataset import ReadRegions
from captum_dexar.evaluation.function_words import FUNCTION_WORDS
from captum_dexar.evaluation.protocols.explaining import Explained
from captum_dexar.methods.scoring import sequence_attribution
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.result.words import Word
from torch import Tensor


def with_answer(result: VLMAttributionResult, seq_attr: Tensor) -> VLMAttributionResult:
    """A result of the same image whose whole answer has another attribution."""
    return VLMAttributionResult(
        output_tokens=result.output_tokens,
        target_ids=result.target_ids,
        token_attr=result.token_attr,
        seq_attr=seq_attr,
        layout=result.layout,
        answer=result.answer,
    )


def of_fillers(explained: Explained, fillers: list[int]) -> Tensor:
    """The attribution of the whole answer, as if it had these tokens only."""
    maps, weights = explained.result.token_attr, explained.result.token_weights
    weights = torch.ones(len(maps)) if weights is None else weights
    with warnings.catch_warnings():
        # Zero maps are counted.
        warnings.filterwarnings("ignore", "The map of the whole answer is zero")
        return sequence_attribution(
            maps[fillers],
            weights[fillers],
            normalize=explained.arguments.get("normalize", True),
        ).float()


def filler_tokens(result: VLMAttributionResult, regions: ReadRegions) -> list[int]:
    """Tokens that refer to nothing in the image: those of the regions without a mask
    or, if there are none, function words and punctuation."""
    named = {t for tokens, mask, _ in regions if mask is None for t in tokens or []}
    if not named:
        for word in result.words():
            if is_filler(word):
                named.update(word.tokens)
    return sorted(named)


def is_filler(word: Word) -> bool:
    """Whether a word is a function word or punctuation."""
    return word.text.strip(string.punctuation).lower() in FUNCTION_WORDS | {""}
