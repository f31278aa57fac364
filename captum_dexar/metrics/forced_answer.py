"""The log-probabilities of an answer on changed images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from captum.attr import ImageMaskInput
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import batch_key, batch_of, ImageTokenInput, Prompt
from captum_dexar.inputs.model_inputs import model_inputs_of
from captum_dexar.maps.image_tokens import one_or_all
from captum_dexar.metrics.fills import Fill, filling_pixels
from captum_dexar.metrics.image_parts import Bools
from captum_dexar.model.precision import logit_tolerance, rounding_dtype
from captum_dexar.model.state import check_model_state
from captum_dexar.model.target_logits import TargetLogits
from PIL import Image
from torch import nn, Tensor

# How far log-probabilities of the same tokens may differ between passes of a model in
# single or double precision, in units of the largest logit.
TOLERANCE = 1e-5


class ForcedAnswer:
    """A given answer to a prompt, whose images are changed before they are processed.

    Args:
        model (nn.Module): the vision-language model
        inp (ImagePromptInput or ImageMaskInput): the input; its own processor makes
            model inputs of changed images too
        target_ids (Tensor): the answer, ``(T,)``
        fill (optional): as in :func:`filling_pixels`. Default: ``"mean"``
        batch_size (int, optional): maximum number of images per pass. Default: 16

    Raises:
        TypeError: the input has another type.
        ValueError: ``batch_size`` is less than 1, or as :func:`filling_pixels`.
        RuntimeError: as :meth:`VLMAttribution.attribute`.
    """

    def __init__(
        self,
        model: nn.Module,
        inp: Any,
        target_ids: Tensor,
        fill: Fill = "mean",
        batch_size: int = 16,
    ) -> None:
        check_model_state(model)
        if not isinstance(inp, ImageMaskInput):
            raise TypeError(
                "Images are perturbed before they are processed, so inp must be an "
                "ImagePromptInput, or a captum ImageMaskInput whose processor_fn "
                f"returns the processor's output, got {type(inp).__name__}."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        images = inp.images if isinstance(inp, ImageTokenInput) else [inp.image]
        self.model = model
        self.inp = inp
        self.target_ids = target_ids.detach().cpu()
        # Of whatever input, they are RGB.
        self.images: list[Image.Image] = list(images)
        self._fillings = filling_pixels(self.images, fill)
        self._originals = [np.array(one) for one in self.images]
        self._batch_size = batch_size

    @cached_property
    def _original(self) -> Prompt:
        return self._prompt(self.images)

    @cached_property
    def _unperturbed(self) -> TargetLogits:
        return self._run([self._original])

    @property
    def unperturbed(self) -> Tensor:
        """Log-probabilities on the original images, ``(T,)``, float64."""
        return self._unperturbed.log_probs[0].cpu().double()

    def check(self, log_probs: Tensor | None) -> None:
        """Compares the log-probabilities of an explanation with the original's.

        Args:
            log_probs (Tensor or None): the explanation's, ``(T,)``; None: not known

        Raises:
            ValueError: they differ by more than rounding.
        """
        if log_probs is None:
            return
        known = log_probs.detach().cpu().double()
        error = float((self.unperturbed - known).abs().max())
        if not error <= self._tolerance:
            raise ValueError(
                "The model gives the explained answer other log-probabilities than its "
                f"explanation holds: they differ by up to {error:.3g}. Pass the model, "
                "the input and the processor with which it was explained."
            )

    def log_probs(self, removed: Iterable[Sequence[Bools]]) -> Tensor:
        """Log-probabilities of the answer's tokens with some pixels replaced.

        Args:
            removed (iterable): for each change, the replaced pixels ``(H, W)`` of every
                image

        Returns:
            *Tensor* ``(changes, T)``, float64
        """
        return self.log_probs_on(map(self._changed, removed))

    def log_probs_on(self, others: Iterable[list[Image.Image]]) -> Tensor:
        """Log-probabilities of the answer's tokens on other images.

        Args:
            others (iterable): for each change, all images of the prompt

        Returns:
            *Tensor* ``(changes, T)``, float64
        """
        changes = iter(others)
        # An unknown family may not put copies of a prompt together as others do. Copies
        # need no padding, so all other families can.
        size = self._batch_size if self._original.adapter.model_types else 1
        rows: list[Tensor] = []
        while prompts := [self._prompt(one) for one in islice(changes, size)]:
            found = self._together(prompts, not rows) if size > 1 else None
            if found is None:
                size = 1
                found = torch.cat([self._run([one]).log_probs for one in prompts])
            rows.append(found)
        if not rows:
            return self.unperturbed.new_empty(0, len(self.target_ids))
        return torch.cat(rows).cpu().double()

    def effects_of(self, others: Iterable[Image.Image]) -> Tensor:
        """What each token loses on other versions of the first image.

        Args:
            others (iterable of PIL.Image.Image): the versions, of the image's size

        Returns:
            *Tensor* ``(versions, T)``, float64: ``log p(token | image) - log p(token |
            version)``

        Raises:
            ValueError: a version has another size.
        """
        first, *rest = self.images
        changed = [[one.convert("RGB"), *rest] for one in others]
        for one, *_ in changed:
            if one.size != first.size:
                raise ValueError(
                    f"Another version of the image must have its size, {first.width} x "
                    f"{first.height} pixels, got {one.width} x {one.height}."
                )
        return self.unperturbed - self.log_probs_on(changed)

    def _together(self, prompts: list[Prompt], is_first: bool) -> Tensor | None:
        """Log-probabilities from one pass, or None if prompts have to be run singly.

        To the first batch the original is added, which has to come out as it does
        alone.
        """
        batch = [*prompts, self._original] if is_first else prompts
        if len({batch_key(one) for one in batch}) > 1:
            return None
        found = self._run(batch).log_probs
        if is_first:
            error = (found[-1].cpu().double() - self.unperturbed).abs().max()
            if not float(error) <= self._tolerance:
                return None
        return found[: len(prompts)]

    @property
    def _tolerance(self) -> float:
        dtype, largest = rounding_dtype(self.model), float(self._unperturbed.largest)
        if dtype in (torch.float32, torch.float64):
            return TOLERANCE * max(1.0, largest)
        # A log-probability is a difference of two rounded values.
        return 2 * logit_tolerance(dtype, largest)

    def _changed(self, removed: Sequence[Bools]) -> list[Image.Image]:
        return [
            Image.fromarray(np.where(pixels[..., None], filling, original))
            for pixels, filling, original in zip(
                removed, self._fillings, self._originals
            )
        ]

    def _prompt(self, images: list[Image.Image]) -> Prompt:
        made = self.inp.processor_fn(one_or_all(images))
        return Prompt(self.model, model_inputs_of(made, self.model))

    def _run(self, prompts: list[Prompt]) -> TargetLogits:
        answers = self.target_ids.expand(len(prompts), -1)
        with torch.no_grad():
            return DecodingSteps(batch_of(prompts), answers).cheapest_pass().run()
