"""How well a model still predicts its answer without parts of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from captum_dexar.inputs import read_prompt, Target
from captum_dexar.maps.normalization import widened_for_sums
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.metrics.fills import Fill
from captum_dexar.metrics.forced_answer import ForcedAnswer
from captum_dexar.metrics.image_parts import (
    Bools,
    ImageParts,
    Mode,
    Order,
    Ranking,
    Unit,
)
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.result.selection import selected_tokens, Selection
from captum_dexar.vlm_attribution import VLMAttribution
from captum_dexar.vlm_forward import VLMForward
from torch import nn, Tensor

FRACTIONS = tuple(k / 10 for k in range(10))


def normalized_perplexity(log_probs: Tensor, unperturbed_log_probs: Tensor) -> Tensor:
    r"""Perplexity of an answer on perturbed images over that on the original image.

    ``nPPL = PPL(y | x_f) / PPL(y | x)``, with
    ``PPL(y | x) = exp( -1/T sum_t log p(y_t | x, y_<t) )``. It is computed as the
    exponential of the mean difference of log-probabilities, so that neither perplexity
    has to be finite.

    In (0, inf]: 1 where the model predicts its answer as well as before, larger where
    it does worse.

    Args:
        log_probs (Tensor): log-probabilities of the answer's tokens on perturbed
            images, ``(..., T)``
        unperturbed_log_probs (Tensor): those on the original image, ``(T,)``, or of the
            same shape

    Returns:
        *Tensor* ``(...)``, float64 (float32 on devices without it)

    Raises:
        TypeError: log-probabilities are no tensors.
        ValueError: the shapes do not match, there is no token, or a log-probability is
            NaN or, on the original image, infinite.

    Examples::

        >>> import torch
        >>> from captum_dexar.metrics import normalized_perplexity
        >>> original = torch.tensor([0.5, 0.5]).log()
        >>> perturbed = torch.tensor([[0.5, 0.5], [0.25, 0.25]]).log()
        >>> normalized_perplexity(perturbed, original)
        tensor([1.0000, 2.0000], dtype=torch.float64)
    """
    for one in (log_probs, unperturbed_log_probs):
        if not isinstance(one, Tensor):
            raise TypeError(
                f"Log-probabilities must be tensors, got {type(one).__name__}."
            )
    after = widened_for_sums(log_probs)
    before = widened_for_sums(unperturbed_log_probs)
    if not after.dim() or before.shape not in (after.shape, after.shape[-1:]):
        raise ValueError(
            "Expected log-probabilities (..., T) and the unperturbed ones (T,) or of "
            f"the same shape, got {tuple(after.shape)} and {tuple(before.shape)}."
        )
    if not after.shape[-1]:
        raise ValueError("There is no token: T is 0.")
    if bool(after.isnan().any()) or not bool(before.isfinite().all()):
        raise ValueError(
            "Log-probabilities must not be NaN, and those on the original image must "
            f"be finite, got {after.tolist()} and {before.tolist()}."
        )
    ratio: Tensor = (before.to(after.device) - after).mean(-1).exp()
    return ratio


@dataclass(frozen=True, eq=False)
class PerturbationCurve:
    """What removing or inserting parts of the image does to an answer.

    See :func:`perturbation_curve`.

    Attributes:
        fractions (Tensor): the share of the parts that is removed or inserted, ``(F,)``
        log_probs (Tensor): log-probabilities of the tokens at each, ``(F, T)``, float64
        unperturbed_log_probs (Tensor): those on the original image, ``(T,)``
        tokens (tuple of int): positions of these tokens in the answer, ``T``
        order (str): ``"positive"`` or ``"negative"``
        mode (str): ``"removal"`` or ``"insertion"``
        is_degenerate (bool): whether the map is constant. It has no order then, and the
            curve is that of a random order
    """

    fractions: Tensor
    log_probs: Tensor
    unperturbed_log_probs: Tensor
    tokens: tuple[int, ...]
    order: Order
    mode: Mode
    is_degenerate: bool

    @property
    def perplexity(self) -> Tensor:
        """``PPL(y | x_f)``, at least 1, ``(F,)``."""
        return (-self.log_probs.mean(-1)).exp()

    @property
    def normalized(self) -> Tensor:
        """``nPPL(f)``, see :func:`normalized_perplexity`, ``(F,)``."""
        return normalized_perplexity(self.log_probs, self.unperturbed_log_probs)

    @property
    def area(self) -> float:
        """The area under ``nPPL(f)`` from the first to the last fraction.

        By the trapezoidal rule, and not divided by anything: an answer that does not
        depend on the image has the area 0.9 over the default fractions. One fraction
        has no area, 0. Infinite if the model excludes a token somewhere.
        """
        return float(torch.trapezoid(self.normalized, self.fractions))

    @property
    def log_area(self) -> float:
        """The area under ``log nPPL(f)``, which is 0 if the answer does not change.

        Perplexity grows exponentially, so that single answers dominate a mean of
        areas; they do not in the mean of these.
        """
        return float(torch.trapezoid(self.normalized.log(), self.fractions))


def perturbation_curve(
    model: VLMAttribution | VLMForward | nn.Module,
    inp: Any,
    attribution: VLMAttributionResult | Tensor | Sequence[Tensor],
    target: Target = None,
    *,
    selection: Selection = None,
    order: Order = "positive",
    mode: Mode = "removal",
    fractions: Sequence[float] = FRACTIONS,
    fill: Fill = "mean",
    unit: Unit = "token",
    seed: int = 0,
    batch_size: int = 16,
) -> PerturbationCurve:
    r"""Perplexity of an answer while parts of the image are removed or inserted.

    Parts of the image are replaced in the order of a map, the processor makes the
    model's inputs of the new image, and the model predicts the same answer, token by
    token (teacher forcing; nothing is generated). Each area under ``nPPL(f)`` tells how
    well the map knows what the answer depends on. For removal, larger is better in
    positive order and smaller in negative order; for insertion, smaller is better in
    positive order and larger in negative order.

    ``nPPL`` is positive without an upper limit, and 1 if nothing is lost. What chance
    scores depends on the model and the image and can't be computed: measure random maps
    (:class:`LayerRandomMap`) with the same arguments.

    Args:
        model (VLMAttribution, VLMForward or nn.Module): the model that gave the answer
        inp (ImagePromptInput or ImageMaskInput): the explained input
        attribution (VLMAttributionResult, Tensor or sequence of Tensor): a result; or a
            map of any origin, ``(h, w)`` on the grid of the result's maps or ``(H, W)``
            on the pixels, and a list of maps for several images. Signed maps are ranked
            by their signed values
        target (str, list of int or Tensor, optional): the answer, only for a map; a
            string needs a :class:`VLMAttribution` with a processor. Default: None, that
            of the result
        selection (int, tuple, sequence of int or Word, optional): a part of the answer,
            as in :meth:`VLMAttributionResult.token_map_of`: its map is used, and only
            its tokens' log-probabilities count. Earlier tokens of the answer are given
            to the model unchanged. Default: None, the whole answer and its map
        order (str, optional): ``"positive"``, the most important parts first; or
            ``"negative"``, the least important first. Default: ``"positive"``
        mode (str, optional): ``"removal"`` from the original image; or ``"insertion"``
            into an image of which the model sees nothing. Default: ``"removal"``
        fractions (sequence of float, optional): shares of the parts, ascending, in [0,
            1]. Default: 0 to 0.9 in steps of 0.1
        fill (optional): what removed parts are replaced with: ``"mean"``, the image's
            mean colour; ``"blur"``, the image under a Gaussian filter of a sixteenth of
            its shorter side; an RGB colour; an image of the same size, or a list of
            them. Default: ``"mean"``
        unit (str, optional): ``"token"``, a part is the box of an image token (a cell
            of the map, if several views cover the image; a segment, if the map has
            segments); or ``"pixel"``. Parts without a pixel do not count, and pixels
            that the model does not see are left as they are. Default: ``"token"``
        seed (int, optional): parts of equal value are taken in a random order that
            depends on this seed only. Default: 0
        batch_size (int, optional): maximum number of images per pass. Default: 16

    Returns:
        PerturbationCurve

    Raises:
        TypeError: ``inp`` or ``attribution`` has another type.
        ValueError: there is no such order, mode, unit or fill, or fractions are not
            ascending in [0, 1]; a map does not fit or is not finite; a target is given
            together with a result, or missing; the original images are not known; or
            the model does not give the answer the log-probabilities of the result.
        IndexError: the answer has no such token.
        RuntimeError: the model is in training mode.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.metrics import perturbation_curve
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> dexar = VLMAttribution(LayerDexAR(model), processor)
        >>> result = dexar.attribute(inp)
        >>> positive = perturbation_curve(model, inp, result)
        >>> negative = perturbation_curve(model, inp, result, order="negative")
        >>> positive.area > negative.area
        True
        >>> positive.normalized.shape
        torch.Size([10])
    """
    answer, ranked = ranked_parts(
        model,
        inp,
        attribution,
        target,
        selection=selection,
        fill=fill,
        unit=unit,
        seed=seed,
        batch_size=batch_size,
    )
    wanted = Perturbation(ranked, order, mode, tuple(fractions))
    (curve,) = perturbation_curves(answer, [wanted])
    return curve


@dataclass(frozen=True, eq=False)
class RankedParts:
    """The parts of the images as a map ranks them, and the tokens that count."""

    parts: ImageParts
    ranking: Ranking
    tokens: tuple[int, ...]

    @classmethod
    def of(
        cls,
        parts: ImageParts,
        result: VLMAttributionResult,
        selection: Selection = None,
        seed: int = 0,
    ) -> RankedParts:
        """From the map of a part of an answer."""
        if parts.unit == "pixel" or isinstance(parts.layout, SegmentLayout):
            images = range(parts.layout.num_images)
            maps = [result.pixel_map(selection, image) for image in images]
        else:
            made = result.token_map_of(selection)
            maps = [made] if isinstance(made, Tensor) else made
        return cls.of_maps(parts, maps, len(result.output_tokens), selection, seed)

    @classmethod
    def of_maps(
        cls,
        parts: ImageParts,
        maps: Sequence[Tensor],
        num_tokens: int,
        selection: Selection = None,
        seed: int = 0,
    ) -> RankedParts:
        """From a map per image, for a part of an answer of ``num_tokens`` tokens."""
        ranking = parts.ranked(parts.values(maps), seed)
        return cls(parts, ranking, tuple(selected_tokens(selection, num_tokens)))


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A curve to be measured."""

    ranked: RankedParts
    order: Order
    mode: Mode
    fractions: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, kinds in (("order", Order), ("mode", Mode)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, get_args(kinds)))}, "
                    f"got {getattr(self, name)!r}."
                )
        check_fractions(self.fractions)

    def removed(self) -> list[Bools]:
        """The replaced parts at each fraction."""
        ranking = self.ranked.ranking
        return [ranking.removed(f, self.order, self.mode) for f in self.fractions]


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises ValueError unless they are ascending numbers from 0 to 1."""
    steps = list(fractions)
    is_ascending = all(low < high for low, high in zip(steps, steps[1:]))
    if not steps or not is_ascending or not 0 <= steps[0] <= steps[-1] <= 1:
        raise ValueError(
            f"fractions must be ascending numbers from 0 to 1, got {steps}."
        )


def ranked_parts(
    model: VLMAttribution | VLMForward | nn.Module,
    inp: Any,
    attribution: VLMAttributionResult | Tensor | Sequence[Tensor],
    target: Target,
    *,
    selection: Selection,
    fill: Fill,
    unit: Unit,
    seed: int,
    batch_size: int,
) -> tuple[ForcedAnswer, RankedParts]:
    """The answer and the order in which parts are removed; arguments and errors as in
    :func:`perturbation_curve`."""
    vlm: nn.Module = model
    processor = None
    if isinstance(model, VLMAttribution):
        vlm, processor = model.model, model.processor
    elif isinstance(model, VLMForward):
        vlm = model.model
    if isinstance(attribution, VLMAttributionResult):
        if target is not None:
            raise ValueError(
                "A result has its own answer. Leave target out, or pass a map."
            )
        answer = ForcedAnswer(vlm, inp, attribution.target_ids, fill, batch_size)
        answer.check(attribution.token_log_probs)
        parts = ImageParts.of(attribution.layout, unit)
        return answer, RankedParts.of(parts, attribution, selection, seed)
    maps = [attribution] if isinstance(attribution, Tensor) else list(attribution)
    if not all(isinstance(one, Tensor) for one in maps):
        raise TypeError(
            "attribution must be a VLMAttributionResult, a map as a tensor, or a list "
            f"of maps, got {type(attribution).__name__}."
        )
    if target is None:
        raise ValueError("A map needs the answer that it explains: pass target.")
    prompt = read_prompt(inp, vlm, processor, target=target)
    assert prompt.answer is not None
    answer = ForcedAnswer(vlm, inp, prompt.answer, fill, batch_size)
    parts = ImageParts.of(prompt.layout, unit)
    length = len(prompt.answer)
    return answer, RankedParts.of_maps(parts, maps, length, selection, seed)


def perturbation_curves(
    answer: ForcedAnswer, wanted: Sequence[Perturbation]
) -> list[PerturbationCurve]:
    """Several curves of one answer, from as few passes as possible.

    Equal images, such as the original, are run once.
    """
    every_removed = [one.removed() for one in wanted]
    place_of: dict[tuple[int, bytes], int] = {}
    different: list[tuple[ImageParts, Bools]] = []
    for one, each in zip(wanted, every_removed):
        for parts in each:
            if parts.any() and _key(one, parts) not in place_of:
                place_of[_key(one, parts)] = len(different)
                different.append((one.ranked.parts, parts))
    found = answer.log_probs(of.pixels(parts) for of, parts in different)
    known = torch.cat([found, answer.unperturbed[None]])
    curves = []
    for one, each in zip(wanted, every_removed):
        rows = [place_of.get(_key(one, parts), -1) for parts in each]
        tokens = list(one.ranked.tokens)
        curves.append(
            PerturbationCurve(
                fractions=torch.tensor(one.fractions, dtype=torch.float64),
                log_probs=known[rows][:, tokens],
                unperturbed_log_probs=answer.unperturbed[tokens],
                tokens=one.ranked.tokens,
                order=one.order,
                mode=one.mode,
                is_degenerate=one.ranked.ranking.is_degenerate,
            )
        )
    return curves


def _key(wanted: Perturbation, removed: Bools) -> tuple[int, bytes]:
    return id(wanted.ranked.parts), np.packbits(removed).tobytes()
