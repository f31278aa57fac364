"""Numbers that are not finite: an error that says where they come from."""

import torch
from torch import nn, Tensor

_PLAIN = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


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
        # Quantised weights can't be asked.
        is_plain = type(weight.data) is Tensor and weight.dtype in _PLAIN
        if is_plain and not weight.is_meta and not bool(weight.isfinite().all()):
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
