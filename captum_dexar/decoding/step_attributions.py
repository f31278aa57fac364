"""Raw attributions of decoding steps, before they become a result."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from captum_dexar.maps.layout import ImageLayout
from torch import Tensor

# Fields that are the same for all steps.
SHARED = ("layer_indices", "layout")


@dataclass(frozen=True, eq=False)
class StepAttributions:
    """Un-normalised attributions of some decoding steps.

    Attributes:
        token_attr (Tensor): equation (5), ``(batch, steps, image tokens)``
        token_log_probs (Tensor): the model's log-probability of each target,
            ``(batch, steps)``
        token_weights (Tensor or None): equation (6), ``(batch, steps)``, if the method
            computes them
        head_weights (Tensor or None): equation (5), ``(batch, steps, layers, heads)``,
            if the method computes and keeps them; zeros follow the heads of a layer
            that has fewer than others
        layer_attr (Tensor or None): each layer's part of ``token_attr``, ``(batch,
            steps, layers, image tokens)``, if kept
        layer_indices (list of int or None): the explained decoder layers, i.e. the
            chosen ones that have attention; None if the method explains no layers
        rival_ids (Tensor or None): the tokens that each target was contrasted with, if
            it was with several, ``(batch, steps, rivals)``, int64
        convergence_delta (Tensor or None): ``(batch, steps)``, if requested
        layout (ImageLayout or None): places of the columns of ``token_attr``, if they
            are not those of the prompt's image tokens but, say, segments of a mask
    """

    token_attr: Tensor
    token_log_probs: Tensor
    token_weights: Tensor | None = None
    head_weights: Tensor | None = None
    layer_attr: Tensor | None = None
    layer_indices: list[int] | None = None
    rival_ids: Tensor | None = None
    convergence_delta: Tensor | None = None
    layout: ImageLayout | None = None

    @classmethod
    def joined(cls, parts: "Sequence[StepAttributions]") -> "StepAttributions":
        """Concatenates successive steps."""
        if len(parts) == 1:
            return parts[0]

        def together(name: str) -> Any:
            tensors = [getattr(part, name) for part in parts]
            if any(tensor is None for tensor in tensors):
                return None
            return torch.cat(
                [tensor.to(tensors[0].device) for tensor in tensors], dim=1
            )

        tensors = [field.name for field in fields(cls) if field.name not in SHARED]
        return replace(parts[0], **{name: together(name) for name in tensors})

    def steps(self) -> "Iterator[StepAttributions]":
        """Each single step."""
        tensors = {
            name: value
            for name, value in vars(self).items()
            if name not in SHARED and value is not None
        }
        for step in range(self.token_attr.shape[1]):
            yield replace(
                self,
                **{name: value[:, step : step + 1] for name, value in tensors.items()},
            )


class OnlineAttribution(Protocol):
    """A method that explains tokens while the model generates them."""

    @property
    def num_rivals(self) -> int:
        """How many ``rival_ids`` of each token its target logits need."""
        ...

    def watching(self) -> AbstractContextManager[None]:
        """Records the model's forward passes in this thread."""
        ...

    def stop(self) -> None:
        """Records nothing from now on."""
        ...

    def is_due(self, num_waiting: int) -> bool:
        """Whether the waiting steps have to be explained now."""
        ...

    def explain(
        self, tokens: Tensor, target_logits: Any, first_step: int
    ) -> StepAttributions:
        """Attributions of the tokens predicted by the passes since the last call.

        Args:
            tokens (Tensor): one per pass, ``(batch, steps)``
            target_logits (TargetLogits): their logits in these passes
            first_step (int): index of the first token in the answer

        Raises:
            Inconsistent: these passes can't be explained online. Nothing is recorded
                from then on.
        """
        ...
