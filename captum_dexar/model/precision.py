"""The precision of logits and gradients."""

import torch
from torch import nn, Tensor


def widened(tensor: Tensor) -> Tensor:
    """Half precision in float32; float32 and float64 as they are."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def logit_tolerance(dtype: torch.dtype, largest: float) -> float:
    """How far rounding may take logits of a dtype through one norm and one matrix
    product, where they reach ``largest``."""
    return float(torch.finfo(dtype).eps ** 0.5) * max(1.0, largest)


def rounding_dtype(model: nn.Module) -> torch.dtype:
    """The precision to which a model gives the same logits in passes of other shapes.

    With 8-bit weights the rounding of a position depends on all positions of its pass.
    Within ``torch.autocast`` its dtype counts too.
    """
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if torch.int8 in dtypes:
        return torch.float16
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    kinds = {parameter.device.type for parameter in model.parameters()} - {"meta"}
    floating += [
        torch.get_autocast_dtype(kind)
        for kind in kinds
        if torch.is_autocast_enabled(kind)
    ]
    # The coarsest decides.
    return max(floating, key=lambda dtype: torch.finfo(dtype).eps)
