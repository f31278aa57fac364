"""The result of a whole answer from those of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from captum_dexar.methods.scoring import sequence_attribution
from captum_dexar.result.result import VLMAttributionResult
from torch import Tensor

_TENSORS = (
    "target_ids",
    "token_attr",
    "placeless_attr",
    "special_tokens",
    "word_starts",
)
# Those that a method may not have, or not have kept of every token.
_OPTIONAL = (
    "token_weights",
    "token_log_probs",
    "convergence_delta",
    "head_weights",
    "layer_attr",
    "rival_ids",
)


def joined(
    parts: Sequence[VLMAttributionResult], normalize: bool = True
) -> VLMAttributionResult:
    """Joins the results that :meth:`VLMAttribution.stream` yields.

    Args:
        parts (sequence of VLMAttributionResult): all of them so far, in order
        normalize (bool, optional): as in :meth:`VLMAttribution.attribute`.
            Default: True

    Returns:
        VLMAttributionResult of the answer so far

    Raises:
        ValueError: there are no parts.
    """
    if not parts:
        raise ValueError("There is nothing to join: no token has been explained.")
    first = parts[0]
    fields: dict[str, Any] = {name: _together(parts, name) for name in _TENSORS}
    fields |= {name: _together(parts, name) for name in _OPTIONAL}
    weights = fields["token_weights"]
    if weights is None:
        weights = torch.ones(len(fields["token_attr"]))
    seq_attr = sequence_attribution(fields["token_attr"], weights, normalize=normalize)
    # Without a tokenizer texts are ids, with a blank between them.
    separator = "" if any(part.answer != _ids(part) for part in parts) else " "
    return VLMAttributionResult(
        **fields,
        output_tokens=[token for part in parts for token in part.output_tokens],
        rival_tokens=_rival_tokens(parts),
        answer=separator.join(part.answer for part in parts),
        question=first.question,
        seq_attr=seq_attr.float(),
        layer_indices=first.layer_indices,
        layout=first.layout,
        images=first.images,
        inp=first.inp,
        method=first.method,
    )


def _together(parts: Sequence[VLMAttributionResult], name: str) -> Tensor | None:
    tensors = [getattr(part, name) for part in parts]
    return None if any(one is None for one in tensors) else torch.cat(tensors)


def _rival_tokens(parts: Sequence[VLMAttributionResult]) -> list[list[str]] | None:
    texts: list[list[str]] = []
    for part in parts:
        if part.rival_tokens is None:
            return None
        texts += part.rival_tokens
    return texts


def _ids(part: VLMAttributionResult) -> str:
    return " ".join(map(str, part.target_ids.tolist()))
