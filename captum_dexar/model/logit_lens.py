"""What a decoder layer knows of a token: equation (3)."""

import math
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from captum_dexar.model.precision import widened
from captum_dexar.model.state import loaded_weights
from torch import nn, Tensor

if TYPE_CHECKING:
    from captum_dexar.model.decoder import Decoder


class LogitLens:
    """Logits of some targets as any layer of a decoder would give them.

    Of the output head only the targets' rows are used, and read from it once, rather
    than the logits of the whole vocabulary for every layer.

    Args:
        decoder (Decoder): the model's decoder
        target_ids (Tensor): ``(batch, steps)``
        contrast_ids (Tensor, optional): tokens whose logits are subtracted,
            ``(batch, steps)``; -1 for none. Default: None
    """

    def __init__(
        self,
        decoder: "Decoder",
        target_ids: Tensor,
        contrast_ids: Tensor | None = None,
    ) -> None:
        self.decoder = decoder
        self.target_ids = target_ids
        self.contrast_ids = contrast_ids
        self._targets = _HeadRows(decoder.head, target_ids)
        self._contrasts = None
        if contrast_ids is not None:
            self._contrasts = _HeadRows(decoder.head, contrast_ids.clamp(min=0))

    @cached_property
    def scale(self) -> float:
        """The power of two that brings the targets' rows of the head to about one.

        A gradient that is scaled by it does not leave float16's narrow range on its way
        through a layer.
        """
        largest = 0.0
        if self._targets.weight is not None:
            largest = float(self._targets.weight.abs().max())
        return 2.0 ** -math.frexp(largest)[1]

    def read(self, hidden: Tensor, steps: slice = slice(None)) -> Tensor:
        """The targets' logits, less those of what they are contrasted with.

        Args:
            hidden (Tensor): output of a decoder layer, ``(batch, steps, hidden size)``
            steps (slice, optional): which of the steps these are. Default: all

        Returns:
            *Tensor* of **logits**, ``(batch, steps)``, float32 at least.
        """
        norm = self.decoder.final_norm
        normed = hidden if norm is None else norm(hidden)
        transform = self.decoder.logit_transform
        logits = transform(self._targets.logits(normed, steps))
        if self._contrasts is None or self.contrast_ids is None:
            return logits
        contrast_ids = self.contrast_ids[:, steps].to(logits.device)
        target_ids = self.target_ids[:, steps].to(logits.device)
        against = transform(self._contrasts.logits(normed, steps))
        zero = torch.zeros_like(logits)
        difference = logits - against.where(contrast_ids >= 0, zero)
        # Rounding would leave a little of equal readings' gradients.
        return difference.where(contrast_ids != target_ids, zero)


class _HeadRows:
    """The rows of an output head that belong to some tokens."""

    def __init__(self, head: nn.Module, ids: Tensor) -> None:
        self.head = head
        self.ids = ids
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        if type(head) is nn.Linear:
            with torch.no_grad(), loaded_weights(head):
                here = ids.to(head.weight.device)
                self.weight = widened(head.weight.detach()[here])
                if head.bias is not None:
                    self.bias = widened(head.bias.detach()[here])

    def logits(self, normed: Tensor, steps: slice) -> Tensor:
        if self.weight is None:
            # A head of another kind, of which rows can't be taken.
            every_logit = self.head(normed)
            index = self.ids[:, steps].to(every_logit.device)[..., None]
            return widened(every_logit.gather(-1, index)[..., 0])
        weight = self.weight[:, steps].to(normed.device)
        logits = (widened(normed) * weight).sum(-1)
        if self.bias is not None:
            logits = logits + self.bias[:, steps].to(normed.device)
        return logits
