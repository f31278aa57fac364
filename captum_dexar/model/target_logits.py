"""The model's own logits of the explained tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from captum_dexar.model.precision import widened
from torch import Tensor

# Positions whose logits over the vocabulary are widened at once.
POSITIONS_AT_ONCE = 16
# Steps of an answer for which there is room at first.
STEPS_AT_FIRST = 64


@dataclass(frozen=True, eq=False)
class TargetLogits:
    """The model's logits of some targets, without those of the whole vocabulary.

    Attributes:
        logits (Tensor): ``(batch, steps)``, in the model's dtype
        log_probs (Tensor): log-probabilities, ``(batch, steps)``, float32 at least
        largest (Tensor): the largest absolute logit of the vocabulary, 0-d
    """

    logits: Tensor
    log_probs: Tensor
    largest: Tensor

    @classmethod
    def of(cls, logits: Tensor, target_ids: Tensor) -> "TargetLogits":
        """Takes them from the logits of the whole vocabulary.

        Args:
            logits (Tensor): ``(batch, steps, vocabulary)``
            target_ids (Tensor): ``(batch, steps)``
        """
        index = target_ids.to(logits.device)[..., None]
        chosen = logits.gather(-1, index)[..., 0]
        totals = [
            widened(part).logsumexp(-1)
            for part in logits.split(POSITIONS_AT_ONCE, dim=1)
        ]
        best = logits.amax(-1).abs().max()
        return cls(
            logits=chosen,
            log_probs=widened(chosen) - torch.cat(totals, dim=1),
            largest=best,
        )

    @classmethod
    def joined(cls, parts: "list[TargetLogits]") -> "TargetLogits":
        """Puts the logits of successive steps together."""
        return cls(
            logits=torch.cat([part.logits for part in parts], dim=1),
            log_probs=torch.cat([part.log_probs for part in parts], dim=1),
            largest=torch.stack([part.largest for part in parts]).max(),
        )

    def of_steps(self, steps: slice) -> "TargetLogits":
        """The logits of some of the steps."""
        return TargetLogits(
            self.logits[:, steps], self.log_probs[:, steps], self.largest
        )

    def steps(self) -> "Iterator[TargetLogits]":
        """The logits of each single step."""
        for step in range(self.logits.shape[1]):
            yield self.of_steps(slice(step, step + 1))


def is_forbidden(logits: Tensor) -> Tensor:
    """Which tokens the model never generates: it sets their logits to the lowest number
    or to minus infinity."""
    return logits < torch.finfo(logits.dtype).min / 2


def rival_ids(logits: Tensor, target_ids: Tensor, count: int) -> Tensor:
    """The tokens that the model would choose next if it did not choose the targets.

    Args:
        logits (Tensor): ``(batch, steps, vocabulary)``
        target_ids (Tensor): ``(batch, steps)``
        count (int): how many

    Returns:
        *Tensor* ``(count, batch, steps)``, the most likely first

    Raises:
        ValueError: the vocabulary has no more than ``count`` tokens.
    """
    if not count < logits.shape[-1]:
        raise ValueError(
            f"rivals must be fewer than the {logits.shape[-1]} tokens of the "
            f"vocabulary, got {count}."
        )
    index = target_ids.to(logits.device)[..., None]
    others = logits.scatter(-1, index, -torch.inf)
    best = others.topk(count, dim=-1)
    # A token that the model never generates is no rival.
    forbidden = is_forbidden(best.values)
    ids = best.indices.where(~forbidden, best.indices[..., :1])
    return ids.movedim(-1, 0)


class GrowingLogits:
    """The model's logits of the tokens of an answer, as it grows.

    They are kept in one tensor: a small tensor per token, allocated between the large
    ones of each pass, would fragment the allocator's memory.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self._logits: Tensor | None = None
        self._log_probs: Tensor | None = None
        self._largest: Tensor | None = None

    def add(self, logits: Tensor, target_ids: Tensor) -> None:
        """Adds a step.

        Args:
            logits (Tensor): ``(batch, 1, vocabulary)``
            target_ids (Tensor): its token, ``(batch, 1)``
        """
        step = TargetLogits.of(logits, target_ids)
        self._logits = self._with(self._logits, step.logits)
        self._log_probs = self._with(self._log_probs, step.log_probs)
        if self._largest is None:
            self._largest = step.largest.clone()
        torch.maximum(self._largest, step.largest, out=self._largest)
        self.num_steps += 1

    def since(self, step: int) -> TargetLogits:
        """The logits from a step on."""
        assert self._logits is not None and self._log_probs is not None
        assert self._largest is not None
        steps = slice(step, self.num_steps)
        return TargetLogits(
            self._logits[:, steps], self._log_probs[:, steps], self._largest
        )

    def _with(self, held: Tensor | None, new: Tensor) -> Tensor:
        if held is None or held.shape[1] == self.num_steps:
            room = new.new_empty(new.shape[0], max(STEPS_AT_FIRST, 2 * self.num_steps))
            if held is not None:
                room[:, : self.num_steps] = held
            held = room
        held[:, self.num_steps] = new[:, 0]
        return held
