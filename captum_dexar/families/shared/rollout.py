"""Attention of learned queries to patches, followed through a resampler's layers."""

import torch
from torch import Tensor


def rolled(attentions: list[tuple[str, Tensor]], num_tokens: int) -> Tensor:
    """Attention to patches, followed through the layers of a resampler.

    As in attention rollout, half of what a query holds after a layer is what it held
    before, and half is what it has attended to.

    Args:
        attentions (list of tuple): what is attended to, as in :class:`QueryAttention`,
            and the probabilities, ``(pictures, queries, keys)``
        num_tokens (int): number of the vision tower's tokens of a picture

    Returns:
        *Tensor* ``(pictures, queries, num_tokens)``; rows sum to 1
    """
    rows = [attention.shape[1] for _, attention in attentions]
    # Text that queries attend to has read them, and so the image.
    held = attentions[0][1].new_zeros(len(attentions[0][1]), max(rows), num_tokens)
    for (keys, attention), count in zip(attentions, rows):
        read = torch.zeros_like(held[:, :count])
        if keys != "queries":
            read = read + attention[..., :num_tokens]
            attention = attention[..., num_tokens:]
        if keys != "patches":
            read = read + attention @ held[:, : attention.shape[2]]
        held = torch.cat([(held[:, :count] + read) / 2, held[:, count:]], dim=1)
    found = held[:, : min(rows)]
    return found / found.sum(-1, keepdim=True)


def rolled_out(attentions: list[Tensor], num_tokens: int) -> Tensor:
    """As :func:`rolled`, where patches, which come first, attend in the same layers.

    Args:
        attentions (list of Tensor): ``(pictures, patches and queries, the same)``
        num_tokens (int): number of patches of a picture

    Returns:
        *Tensor* ``(pictures, queries, num_tokens)``; rows sum to 1
    """
    of_first = attentions[0]
    held = torch.eye(of_first.shape[-1], dtype=of_first.dtype, device=of_first.device)
    held = held.expand_as(of_first)
    for attention in attentions:
        held = (held + attention @ held) / 2
    # What queries hold of themselves is no image.
    found = held[:, num_tokens:, :num_tokens]
    return found / found.sum(-1, keepdim=True)
