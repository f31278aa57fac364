"""What a model does to its output head's logits: a scale, a soft cap, or both.

A declared cap or scale may not be applied, and a scale that is applied may be declared
under any name, or be folded into the hidden states. Where no declared transform gives
the model's logits, the scale is fitted to them; a cap is never guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

LogitTransform = Callable[[Tensor], Tensor]
# Logits nearer to a cap say little about what was capped.
_BELOW_CAP = 0.9


@dataclass(frozen=True, eq=False)
class FittedTransform:
    """A transform of the head's output, and how well it gives the model's logits.

    Attributes:
        transform (Callable): what the model applies to the head's output
        description (str): the same in words
        error (float): the largest difference from the model's logits
    """

    transform: LogitTransform
    description: str
    error: float


def fitted_transform(
    model: nn.Module, raw: Tensor, logits: Tensor, dtype: torch.dtype
) -> FittedTransform:
    """The transform that fits best, a declared one if it does as well as any.

    Args:
        model (nn.Module): the model, whose configuration may declare transforms
        raw (Tensor): the head's output at some tokens of the vocabulary, ``(tokens,)``
        logits (Tensor): the model's logits of them, ``(tokens,)``
        dtype (torch.dtype): that they were computed in
    """
    cap, scale, divisor = declared_settings(model)
    # The plain head first.
    caps = [None, cap] if cap else [None]
    scales = [None, scale, divisor, 1.0 / divisor if divisor else None]
    declared = [
        _fit(raw, logits, some_scale, some_cap)
        for some_cap in caps
        for some_scale in dict.fromkeys(scales)
    ]
    best = min(declared, key=lambda candidate: candidate.error)
    largest = float(logits.abs().max()) if logits.numel() else 0.0
    if best.error <= float(torch.finfo(dtype).eps ** 0.5) * largest:
        return best
    fitted = [
        _fit(raw, logits, _scale_of(raw, logits, some_cap), some_cap)
        for some_cap in caps
    ]
    return min([best, *fitted], key=lambda candidate: candidate.error)


def declared_settings(model: nn.Module) -> tuple[Any, ...]:
    """The soft cap, scale and divisor of a model's configuration."""
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return tuple(getattr(text, name, None) for name in names)


def _fit(
    raw: Tensor, logits: Tensor, scale: float | None, cap: float | None
) -> FittedTransform:
    transform, description = _transform(scale or None, cap or None)
    error = (transform(raw) - logits).abs()
    return FittedTransform(transform, description, float(error.max()))


def _transform(scale: float | None, cap: float | None) -> tuple[LogitTransform, str]:
    if scale is None and cap is None:
        return lambda raw: raw, "the head's output as it is"
    if cap is None:
        return lambda raw: raw * scale, f"a scale of {scale:.6g}"
    if scale is None:
        return lambda raw: cap * torch.tanh(raw / cap), f"a soft cap of {cap}"
    return (
        lambda raw: cap * torch.tanh(raw * scale / cap),
        f"a scale of {scale:.6g} and a soft cap of {cap}",
    )


def _scale_of(raw: Tensor, logits: Tensor, cap: float | None) -> float | None:
    """The scale by least squares, of what went into the cap; None if there is none."""
    raw, logits = raw.double(), logits.double()
    if cap:
        below = logits.abs() < _BELOW_CAP * cap
        raw, logits = raw[below], cap * torch.atanh(logits[below] / cap)
    squares = float(raw.square().sum())
    return float((raw * logits).sum()) / squares if squares else None
