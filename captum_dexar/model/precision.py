"""The precision in which gradients are contracted."""

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """Half precision in float32; float32 and float64 as they are."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
