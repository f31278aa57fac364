"""What explaining some decoding steps gives, before it becomes a result."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class StepAttributions:
    """Un-normalised attributions of some decoding steps.

    Attributes:
        token_attr (Tensor): equation (5), ``(batch, steps, image tokens)``
        token_log_probs (Tensor): the model's log-probability of each target,
            ``(batch, steps)``
        token_weights (Tensor or None): equation (6), ``(batch, steps)``; None for a
            method that has none
        head_weights (Tensor or None): equation (5), ``(batch, steps, layers, heads)``;
            None for a method that has none, or where they were not kept
        layer_attr (Tensor or None): each layer's part of ``token_attr``, ``(batch,
            steps, layers, image tokens)``; None where it was not kept
        layer_indices (list of int or None): the decoder layers that were explained:
            those that were chosen and have attention; None for a method that explains
            no decoder layers
        convergence_delta (Tensor or None): ``(batch, steps)``, of a method that has one
            and was asked for it
    """

    token_attr: Tensor
    token_log_probs: Tensor
    token_weights: Tensor | None = None
    head_weights: Tensor | None = None
    layer_attr: Tensor | None = None
    layer_indices: list[int] | None = None
    convergence_delta: Tensor | None = None

    @classmethod
    def joined(cls, parts: "Sequence[StepAttributions]") -> "StepAttributions":
        """Those of successive steps."""
        if len(parts) == 1:
            return parts[0]

        def together(name: str) -> Any:
            tensors = [getattr(part, name) for part in parts]
            if any(tensor is None for tensor in tensors):
                return None
            return torch.cat(
                [tensor.to(tensors[0].device) for tensor in tensors], dim=1
            )

        tensors = [f.name for f in fields(cls) if f.name != "layer_indices"]
        return cls(
            **{name: together(name) for name in tensors},
            layer_indices=parts[0].layer_indices,
        )


class NotRecorded(Exception):
    """A layer can't be replayed from what was recorded of it."""


class OnlineAttribution(Protocol):
    """A method at work while a model generates."""

    def watching(self) -> AbstractContextManager[None]:
        """Within it the model's passes, in this thread, can be explained."""
        ...

    def is_due(self, num_waiting: int) -> bool:
        """Whether the steps that wait are to be explained before there are more."""
        ...

    def explain(
        self, tokens: Tensor, target_logits: Any, first_step: int
    ) -> StepAttributions:
        """Attributions of the tokens that the passes since the last call predicted.

        Args:
            tokens (Tensor): one per pass, ``(batch, steps)``
            target_logits (TargetLogits): their logits in these passes
            first_step (int): number of the first in the answer

        Raises:
            NotRecorded: these passes can't be explained so.
        """
        ...
