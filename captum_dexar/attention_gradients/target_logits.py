"""What the model itself says of the explained tokens."""

from dataclasses import dataclass

import torch
from captum_dexar.attention_gradients.precision import widened
from torch import Tensor

# Rows whose logits over the vocabulary are widened at once.
ROWS_AT_ONCE = 16


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
