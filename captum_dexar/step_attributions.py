"""What explaining some decoding steps gives, before it becomes a picture."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class StepAttributions:
    """Un-normalised attributions of some decoding steps.

    Attributes:
        token_attr (Tensor): equation (5), ``(batch, steps, image tokens)``
        token_weights (Tensor or None): equation (6), ``(batch, steps)``; None for a
            method that has none
        head_weights (Tensor or None): equation (5), ``(batch, steps, layers, heads)``
        layer_attr (Tensor): each layer's part of ``token_attr``, ``(batch, steps,
            layers, image tokens)``
        token_log_probs (Tensor): the model's log-probability of each target,
            ``(batch, steps)``
        layer_indices (list of int): the decoder layers that were explained: those that
            were chosen and have attention
    """

    token_attr: Tensor
    token_weights: Tensor | None
    head_weights: Tensor | None
    layer_attr: Tensor
    token_log_probs: Tensor
    layer_indices: list[int]
