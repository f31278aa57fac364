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
        rival_ids (Tensor or None): the tokens that the model would choose next, see
            :func:`rival_ids`, ``(batch, steps, rivals)``, where they are asked for
    """

    logits: Tensor
    log_probs: Tensor
    largest: Tensor
    rival_ids: Tensor | None = None

    @classmethod
    def of(
        cls, logits: Tensor, target_ids: Tensor, num_rivals: int = 0
    ) -> "TargetLogits":
        """Takes them from the logits of the whole vocabulary.

        Args:
            logits (Tensor): ``(batch, steps, vocabulary)``
            target_ids (Tensor): ``(batch, steps)``
            num_rivals (int, optional): rivals of each target. Default: 0
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
            rival_ids=(
                rival_ids(logits, target_ids, num_rivals).movedim(0, -1)
                if num_rivals
                else None
            ),
        )

    @classmethod
    def joined(cls, parts: "list[TargetLogits]") -> "TargetLogits":
        """Puts the logits of successive steps together."""
        rivals = [part.rival_ids for part in parts if part.rival_ids is not None]
        return cls(
            logits=torch.cat([part.logits for part in parts], dim=1),
            log_probs=torch.cat([part.log_probs for part in parts], dim=1),
            largest=torch.stack([part.largest for part in parts]).max(),
            rival_ids=torch.cat(rivals, dim=1) if rivals else None,
        )

    def of_steps(self, steps: slice) -> "TargetLogits":
        """The logits of some of the steps."""
        return TargetLogits(
            self.logits[:, steps],
            self.log_probs[:, steps],
            self.largest,
            None if self.rival_ids is None else self.rival_ids[:, steps],
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

    A token that the model never generates is no rival: where fewer are left, the best
    one stands in the other places, and where none is left, the target itself.

    Args:
        logits (Tensor): the model's own, ``(batch, steps, vocabulary)``
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
    may_be = ~is_forbidden(best.values)
    instead = best.indices[..., :1].where(may_be[..., :1], index)
    return best.indices.where(may_be, instead).movedim(-1, 0)


class GrowingLogits:
    """The model's logits of the tokens of an answer, as it grows.

    They are kept in one tensor: a small tensor per token, allocated between the large
    ones of each pass, would fragment the allocator's memory.

    Args:
        num_rivals (int, optional): rivals of each token. Default: 0
    """

    def __init__(self, num_rivals: int = 0) -> None:
        self.num_rivals = num_rivals
        self.num_steps = 0
        self._logits: Tensor | None = None
        self._log_probs: Tensor | None = None
        self._largest: Tensor | None = None
        self._rival_ids: Tensor | None = None

    def add(self, logits: Tensor, target_ids: Tensor) -> None:
        """Adds a step.

        Args:
            logits (Tensor): ``(batch, 1, vocabulary)``
            target_ids (Tensor): its token, ``(batch, 1)``
        """
        step = TargetLogits.of(logits, target_ids, self.num_rivals)
        self._logits = self._with(self._logits, step.logits)
        self._log_probs = self._with(self._log_probs, step.log_probs)
        if step.rival_ids is not None:
            self._rival_ids = self._with(self._rival_ids, step.rival_ids)
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
            self._logits[:, steps],
            self._log_probs[:, steps],
            self._largest,
            None if self._rival_ids is None else self._rival_ids[:, steps],
        )

    def _with(self, held: Tensor | None, new: Tensor) -> Tensor:
        if held is None or held.shape[1] == self.num_steps:
            num_steps = max(STEPS_AT_FIRST, 2 * self.num_steps)
            room = new.new_empty(new.shape[0], num_steps, *new.shape[2:])
            if held is not None:
                room[:, : self.num_steps] = held
            held = room
        held[:, self.num_steps] = new[:, 0]
        return held
