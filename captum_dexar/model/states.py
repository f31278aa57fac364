"""What a decoder layer passes on, in the form that the logit lens reads.

Most layers pass on one vector per position. Some pass on several (hyper-connections,
AltUp's streams, residuals of earlier blocks), which the model only joins behind its
last layer. All are read as ``(batch, positions, ..., hidden size)``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from captum_dexar.model.layers import hidden_argument, hidden_of
from torch import nn, Tensor


def position_axis(layer: nn.Module) -> int:
    """The axis of the positions in the hidden states that a layer takes and returns:
    AltUp's streams come before the batch."""
    return 2 if hasattr(layer, "altup") else 1


def positions_first(layer: nn.Module, hidden: Tensor) -> Tensor:
    """A layer's hidden states as ``(batch, positions, ..., hidden size)``."""
    return hidden.movedim(0, 2) if position_axis(layer) == 2 else hidden


def states_of(
    layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
) -> Tensor:
    """All that the model's end reads after a layer.

    Args:
        layer (nn.Module): the decoder layer
        args, kwargs: its arguments
        output (Any): what it returned for them

    Returns:
        *Tensor* of **states**, ``(batch, positions, ..., hidden size)``. Where the end
        also reads the states of earlier blocks, these come first and the layer's own
        last.
    """
    hidden = positions_first(layer, hidden_of(output))
    if not hasattr(layer, "is_block_boundary"):
        return hidden
    blocks: Tensor = args[1] if len(args) > 1 else kwargs["block_states"]
    parts = [blocks, hidden[:, :, None]]
    if layer.is_block_boundary:
        # The layer's input is the state of the block before it.
        parts.insert(1, hidden_argument(args, kwargs)[:, :, None])
    return torch.cat([part.to(hidden.device) for part in parts], dim=2)
