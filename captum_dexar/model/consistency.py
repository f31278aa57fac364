"""What a shortcut assumed of a model, compared with what happened."""

from typing import Any

import torch
from captum_dexar.model.precision import widened
from torch import Tensor


class Inconsistent(RuntimeError):
    """Something is not what a shortcut assumed; the message says what differs.

    A slower computation without the shortcut takes over. It is an error for the user
    only if there is none, or if that is inconsistent too.
    """


def mismatch(
    computed: Tensor, recorded: Tensor, change: Tensor | None = None
) -> Tensor:
    """How far two computations of the same values differ, as a part of what rounding
    explains.

    Args:
        computed, recorded (Tensor): ``(..., features)``; in the dtype of ``recorded``,
            each row may differ by rounding relative to its largest value
        change (Tensor, optional): what a layer added to its input, ``(..., features)``.
            The difference is then measured against that, as a large input would hide a
            wrong addition to it. Default: None

    Returns:
        0-d *Tensor*: more than 1, or NaN, if they are not the same
    """
    if computed.shape != recorded.shape:
        return torch.tensor(torch.inf)
    eps = torch.finfo(recorded.dtype).eps
    wide = widened(recorded)
    error, size = _largest(widened(computed) - wide), _largest(wide)
    if change is None:
        allowed = eps**0.5 * size
    else:
        allowed = eps**0.5 * _largest(widened(change)) + 8 * eps * size
    ratio: Tensor = error / allowed.clamp(min=torch.finfo(wide.dtype).tiny)
    return ratio.max() if ratio.numel() else ratio.new_zeros(())


def whole_mismatches(pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """As :func:`mismatch`, against the largest value of all rows: in few operations,
    for what is compared often.

    Args:
        pairs (list): computed and recorded values; those of one shape are compared
            together

    Returns:
        list of 0-d *Tensor*, one per shape
    """
    alike: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
    for computed, recorded in pairs:
        key = (recorded.shape, recorded.dtype, recorded.device)
        alike.setdefault(key, []).append((computed, recorded))
    ratios = []
    for (_, dtype, _), of_shape in alike.items():
        computed, recorded = (torch.stack(some).flatten(1) for some in zip(*of_shape))
        info = torch.finfo(dtype)
        error, size = _largest(computed - recorded), _largest(recorded)
        ratio: Tensor = error / (info.eps**0.5 * size).clamp(min=info.tiny)
        ratios.append(ratio.max())
    return ratios


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value along the last axis: much faster than as a norm."""
    return values.abs().amax(-1)


def are_same(mismatches: list[Tensor]) -> bool:
    """Whether all of some mismatches are rounding; one transfer from the device."""
    device = mismatches[0].device
    together = torch.stack([one.to(device) for one in mismatches])
    return bool((together <= 1).all())
