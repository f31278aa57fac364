"""The precision of logits and gradients."""

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """Half precision in float32; float32 and float64 as they are."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def logit_tolerance(dtype: torch.dtype, largest: float) -> float:
    """How far rounding may take logits of a dtype through one norm and one matrix
    product, where they reach ``largest``."""
    return float(torch.finfo(dtype).eps ** 0.5) * max(1.0, largest)
