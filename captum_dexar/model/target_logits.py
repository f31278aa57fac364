"""What the model itself says of the explained tokens."""

from dataclasses import dataclass

import torch
from captum_dexar.model.precision import widened
from torch import Tensor

# Rows whose logits over the vocabulary are widened at once.
ROWS_AT_ONCE = 16
# Steps of an answer for which there is room at first.
STEPS_AT_FIRST = 64


@dataclass(frozen=True, eq=False)
class TargetLogits:
    """The model's logits of some targets, without those of the whole vocabulary.

    Attributes:
        logits (Tensor): ``(batch, steps)``, in the model's dtype
        log_probs (Tensor): log-probabilities, ``(batch, steps)``, float32 at least
        largest (Tensor): the size that the model's logits reach, 0-d
    """

    logits: Tensor
    log_probs: Tensor
    largest: Tensor

    @classmethod
    def of(cls, logits: Tensor, target_ids: Tensor) -> "TargetLogits":
        """Those of ``target_ids``, ``(batch, steps)``, among ``logits``, ``(batch,
        steps, vocabulary)``."""
        index = target_ids.to(logits.device)[..., None]
        chosen = logits.gather(-1, index)[..., 0]
        totals = [
            widened(rows).logsumexp(-1) for rows in logits.split(ROWS_AT_ONCE, dim=1)
        ]
        best = logits.amax(-1).abs().max()
        return cls(
            logits=chosen,
            log_probs=widened(chosen) - torch.cat(totals, dim=1),
            largest=best,
        )

    @classmethod
    def joined(cls, parts: "list[TargetLogits]") -> "TargetLogits":
        """Those of successive steps."""
        return cls(
            logits=torch.cat([part.logits for part in parts], dim=1),
            log_probs=torch.cat([part.log_probs for part in parts], dim=1),
            largest=torch.stack([part.largest for part in parts]).max(),
        )

    def of_steps(self, steps: slice) -> "TargetLogits":
        """Those of some of the steps."""
        return TargetLogits(
            self.logits[:, steps], self.log_probs[:, steps], self.largest
        )


class GrowingLogits:
    """The model's logits of the tokens of an answer, as it grows.

    They lie in one piece of memory: small tensors that stay, one a token among the
    large ones of each pass, would break the allocator's memory into pieces.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self._logits: Tensor | None = None
        self._log_probs: Tensor | None = None
        self._largest: Tensor | None = None

    def add(self, logits: Tensor, target_ids: Tensor) -> None:
        """Takes another step's, ``(batch, 1, vocabulary)``, and its token, ``(batch,
        1)``."""
        step = TargetLogits.of(logits, target_ids)
        self._logits = self._with(self._logits, step.logits)
        self._log_probs = self._with(self._log_probs, step.log_probs)
        if self._largest is None:
            self._largest = step.largest.clone()
        torch.maximum(self._largest, step.largest, out=self._largest)
        self.num_steps += 1

    def since(self, step: int) -> TargetLogits:
        """Those of a step and all later ones."""
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
