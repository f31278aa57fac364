"""What a shortcut assumed of a model, compared with what happened."""

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
    error = (widened(computed) - wide).abs().amax(-1)
    size = wide.abs().amax(-1)
    if change is None:
        allowed = eps**0.5 * size
    else:
        allowed = eps**0.5 * widened(change).abs().amax(-1) + 8 * eps * size
    ratio: Tensor = error / allowed.clamp(min=torch.finfo(wide.dtype).tiny)
    return ratio.max() if ratio.numel() else ratio.new_zeros(())


def whole_mismatch(computed: Tensor, recorded: Tensor) -> Tensor:
    """As :func:`mismatch`, against the largest value of all rows: in few operations,
    for what is compared often."""
    info = torch.finfo(recorded.dtype)
    size = torch.linalg.vector_norm(recorded, torch.inf)
    error = torch.linalg.vector_norm(computed - recorded, torch.inf)
    ratio: Tensor = error / (info.eps**0.5 * size).clamp(min=info.tiny)
    return ratio


def are_same(mismatches: list[Tensor]) -> bool:
    """Whether all of some mismatches are rounding; one transfer from the device."""
    device = mismatches[0].device
    together = torch.stack([one.to(device) for one in mismatches])
    return bool((together <= 1).all())
