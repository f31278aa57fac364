"""The logit lens, equation (3): a token's logit as any decoder layer would give it."""

import math
from functools import cached_property

import torch
from captum_dexar.model.changes import has_plain_weight, users_change
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.decoder import Decoder, forget_decoder
from captum_dexar.model.precision import logit_tolerance, widened
from captum_dexar.model.state import loaded_weights
from captum_dexar.model.target_logits import is_forbidden, TargetLogits
from torch import nn, Tensor


class LogitLens:
    """Logits of some targets as any layer of a decoder would give them.

    Only the targets' rows of the output head are used, and copied from it once: no
    layer's logits of the whole vocabulary are computed.

    Args:
        decoder (Decoder): the model's decoder
        target_ids (Tensor): ``(batch, steps)``
        contrast_ids (Tensor, optional): tokens whose logits are subtracted,
            ``(batch, steps)``; -1 for none. Default: None
    """

    def __init__(
        self,
        decoder: Decoder,
        target_ids: Tensor,
        contrast_ids: Tensor | None = None,
    ) -> None:
        self.decoder = decoder
        self.target_ids = target_ids
        self.contrast_ids = contrast_ids
        # What a user has changed may not keep positions apart.
        parts = [
            part for part in (decoder.final_norm, decoder.head) if part is not None
        ]
        self._takes_one = any(users_change(part) is not None for part in parts)
        self._targets = _HeadRows(decoder.head, target_ids)
        self._contrasts = None
        if contrast_ids is not None:
            self._contrasts = _HeadRows(decoder.head, contrast_ids.clamp(min=0))

    @cached_property
    def scale(self) -> float:
        """The power of two that scales the targets' rows of the head to about one.

        A gradient scaled by it stays within float16's narrow range on its way through a
        layer.
        """
        largest = 0.0
        if self._targets.weight is not None:
            largest = float(self._targets.weight.abs().max())
        return 2.0 ** -math.frexp(largest)[1]

    def read(self, hidden: Tensor, steps: slice = slice(None)) -> Tensor:
        """The targets' logits, minus those of the tokens they are contrasted with.

        Args:
            hidden (Tensor): output of a decoder layer, ``(batch, steps, hidden size)``
            steps (slice, optional): which of the steps these are. Default: all

        Returns:
            *Tensor* of **logits**, ``(batch, steps)``, float32 at least.
        """
        if self._takes_one and hidden.shape[1] > 1:
            places = range(self.target_ids.shape[1])[steps]
            each = zip(hidden.split(1, dim=1), places)
            return torch.cat(
                [self.read(one, slice(place, place + 1)) for one, place in each], dim=1
            )
        normed = self._normed(hidden)
        transform = self.decoder.logit_transform
        logits = transform(self._targets.logits(normed, steps))
        if self._contrasts is None or self.contrast_ids is None:
            return logits
        contrast_ids = self.contrast_ids[:, steps].to(logits.device)
        target_ids = self.target_ids[:, steps].to(logits.device)
        against = transform(self._contrasts.logits(normed, steps))
        zero = torch.zeros_like(logits)
        difference = logits - against.where(contrast_ids >= 0, zero)
        # Rounding would leave a little of the gradients of equal readings.
        return difference.where(contrast_ids != target_ids, zero)

    def check(self, last_hidden: Tensor, target_logits: TargetLogits) -> None:
        """Raises unless the lens on the last layer gives the model's own logits.

        Args:
            last_hidden (Tensor): last layer's output, ``(batch, steps, hidden size)``
            target_logits (TargetLogits): the model's own logits of the targets

        Raises:
            ValueError: a target is a token that the model never generates.
            Inconsistent: the logits differ by more than rounding.
            RuntimeError: they hold NaN or infinity.
        """
        with torch.no_grad():
            size = 1 if self._takes_one else last_hidden.shape[1]
            raw = [
                self._targets.logits(self._normed(part), slice(start, start + size))
                for start, part in zip(
                    range(0, last_hidden.shape[1], size), last_hidden.split(size, dim=1)
                )
            ]
            reading = self.decoder.logit_transform(torch.cat(raw, dim=1))
        theirs = target_logits.logits.to(reading.device)
        forbidden = is_forbidden(theirs)
        if bool(forbidden.any()):
            target_ids = self.target_ids.to(forbidden.device)
            raise ValueError(
                "The target holds tokens that the model never generates, whose logits "
                "it sets to the lowest number: "
                f"{sorted(set(target_ids[forbidden].tolist()))}."
            )
        error = (reading - widened(theirs)).abs().max().item()
        dtypes = {theirs.dtype, self.decoder.rounds_to or theirs.dtype}
        largest = float(target_logits.largest)
        if not math.isfinite(largest):
            raise RuntimeError(
                "The model's logits of the explained tokens are not finite numbers: a "
                f"weight or a pixel is NaN, or numbers are larger than {theirs.dtype} "
                "can hold."
            )
        if not error <= max(logit_tolerance(dtype, largest) for dtype in dtypes):
            # In case the model has changed in a way that was not seen.
            forget_decoder(self.decoder)
            raise Inconsistent(
                "The logit lens does not reproduce this model: on its last layer it is "
                f"off by up to {error:.3g} from the model's own logits, with "
                f"{self.decoder.description}. Attributions would be wrong, so none are "
                "given."
            )

    def _normed(self, hidden: Tensor) -> Tensor:
        norm = self.decoder.final_norm
        return hidden if norm is None else norm(hidden)


def contrasted_lenses(
    decoder: Decoder, target_ids: Tensor, contrast_ids: Tensor | None
) -> list[LogitLens]:
    """A lens for each contrast, or the only one if there is none.

    Args:
        decoder (Decoder): the model's decoder
        target_ids (Tensor): ``(batch, steps)``
        contrast_ids (Tensor or None): ``(contrasts, batch, steps)``; -1 for none
    """
    if contrast_ids is None:
        return [LogitLens(decoder, target_ids)]
    return [LogitLens(decoder, target_ids, contrast) for contrast in contrast_ids]


class _HeadRows:
    """The rows of an output head for some tokens."""

    def __init__(self, head: nn.Module, ids: Tensor) -> None:
        self.head = head
        self.ids = ids
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        if has_plain_weight(head) and users_change(head) is None:
            with torch.no_grad(), loaded_weights(head):
                here = ids.to(head.weight.device)
                self.weight = widened(head.weight.detach()[here])
                if head.bias is not None:
                    self.bias = widened(head.bias.detach()[here])

    def logits(self, normed: Tensor, steps: slice) -> Tensor:
        if self.weight is None:
            # Not a plain linear layer, or with hooks: its rows can't be taken.
            every_logit = self.head(normed)
            index = self.ids[:, steps].to(every_logit.device)[..., None]
            return widened(every_logit.gather(-1, index)[..., 0])
        weight = self.weight[:, steps].to(normed.device)
        logits = (widened(normed) * weight).sum(-1)
        if self.bias is not None:
            logits = logits + self.bias[:, steps].to(normed.device)
        return logits
