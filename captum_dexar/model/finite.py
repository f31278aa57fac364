"""Numbers that are not finite: an error that says where they come from."""

import torch
from torch import nn, Tensor


def check_finite(values: Tensor | None, what: str, model: nn.Module) -> None:
    """Raises RuntimeError if there is a NaN or an infinity among some values.

    Args:
        values (Tensor or None): any shape; None passes
        what (str): what they are, in the plural, for the error
        model (nn.Module): the model that they come from
    """
    if values is not None and not bool(values.isfinite().all()):
        raise RuntimeError(f"{what} are not finite numbers. {why_not_finite(model)}")


def why_not_finite(model: nn.Module) -> str:
    """The likely reason for a NaN or an infinity, and what to do, in sentences."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not weight.is_meta:
            if not bool(weight.isfinite().all()):
                return (
                    f"The model's weight {name} holds NaN or infinity: load the model "
                    "again."
                )
    dtypes = {weight.dtype for weight in model.parameters()}
    if torch.float16 in dtypes:
        return (
            "The model's numbers are larger than float16 can hold: load it in "
            "bfloat16 or float32."
        )
    return (
        "The model's weights are finite, so its numbers, or their gradients, are "
        "larger than its dtype can hold, or a mask hides every key of a position."
    )
