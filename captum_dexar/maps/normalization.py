"""Normalisation of maps, and the precision of their sums."""

import torch
from torch import Tensor


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """The widest floating dtype of ``device``; Apple's MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def widened_for_sums(tensor: Tensor) -> Tensor:
    """A tensor in the widest floating dtype of its device."""
    return tensor.to(accumulation_dtype(tensor.device))


def min_max_normalize(maps: Tensor) -> Tensor:
    """Stretches every finite map, ``(..., tokens)``, to [0, 1]; a constant map becomes
    zero, because it points nowhere."""
    wide = widened_for_sums(maps)
    low = wide.amin(dim=-1, keepdim=True)
    spread = wide.amax(dim=-1, keepdim=True) - low
    constant = spread <= 0
    return ((wide - low) / spread.masked_fill(constant, 1.0)).masked_fill(constant, 0.0)


def scale_signed(maps: Tensor) -> Tensor:
    """Divides every map by its largest absolute value, so that 0 stays 0.

    For signed maps, whose zero separates what raises a token from what lowers it.

    Args:
        maps (Tensor): ``(..., tokens)``, finite

    Returns:
        *Tensor* of **maps**, ``(..., tokens)``, in [-1, 1]

    Example::

        >>> scale_signed(torch.tensor([[-4.0, 0.0, 2.0]]))
        tensor([[-1.0000,  0.0000,  0.5000]], dtype=torch.float64)
    """
    wide = widened_for_sums(maps)
    largest = wide.abs().amax(dim=-1, keepdim=True)
    return wide / largest.masked_fill(largest <= 0, 1.0)
