"""How well a map foretells what happens to a word when an object is removed.

Where a scene can be made again without one of its objects, the object's true effect on
a word is known: ``log p(word | image) - log p(word | image without the object)``, the
words before it unchanged. A map says how important each object is by the share of it
that lies there.

A map's positive part is measured. To match, only positive effects are: an effect below
``negligible``, or a word that becomes more probable, counts as no effect. In ranks,
effects count as equal if they are ``similar``: a map of a few image tokens can't show
which of 12.0 and 12.4 nats is more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.metrics.forced_answer import ForcedAnswer
from captum_dexar.result.result import VLMAttributionResult
from PIL import Image
from torch import nn, Tensor

# Effects below it, in nats, are none: a change of a probability by 5 %.
NEGLIGIBLE = 0.05
# Effects whose difference is a smaller share of the larger one have the same rank.
SIMILAR = 0.1

Numbers = Tensor | Sequence[float]


@dataclass(frozen=True)
class EffectAgreement:
    """How the shares of a map agree with the true effects of objects on a word.

    All are higher for better maps. The first three are None if all effects are similar,
    so that there is no order. See :func:`effect_agreement`.

    Attributes:
        spearman (float or None): rank correlation, from -1 to 1; see
            :func:`rank_agreement`
        pearson (float or None): correlation of shares and effects, from -1 to 1
        top (float or None): 1 if the object with the largest share is the one with the
            largest effect (or similar to it), else 0; if k objects have the largest
            share, the part of them that is
        overlap (float): what shares and effects have in common when both are scaled to
            a sum of 1, from 0 (the map lies on objects without effect) to 1 (equal)
        largest (float): the share of the object with the largest effect, and of those
            with a similar one
    """

    spearman: float | None
    pearson: float | None
    top: float | None
    overlap: float
    largest: float


def removal_effects(
    model: nn.Module,
    inp: Any,
    result: VLMAttributionResult,
    images: Iterable[Image.Image],
    *,
    batch_size: int = 16,
) -> Tensor:
    """The true effects of what other versions of an image lack, token by token.

    ``log p(token | image) - log p(token | other image)``, where the answer before the
    token is given and the same. A word's effect is the sum over its tokens.

    Args:
        model (nn.Module): the vision-language model
        inp (ImagePromptInput or ImageMaskInput): the input with the whole image
        result (VLMAttributionResult): an explanation of the answer
        images (iterable of PIL.Image.Image): the other versions of the first image, of
            its size
        batch_size (int, optional): maximum number of images per pass. Default: 16

    Returns:
        *Tensor* ``(images, T)``, float64, in nats

    Raises:
        ValueError: an image has another size than the input's; or the explanation is of
            another model or input.
        TypeError, RuntimeError: as :func:`perturbation_curve`.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.metrics import removal_effects
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> scene = make_scene(7, num_objects=2)
        >>> inp = ImagePromptInput(scene.image, "Describe the image.", processor)
        >>> result = VLMAttribution(LayerDexAR(model), processor).attribute(
        ...     inp, target=scene.caption
        ... )
        >>> without = [scene.image_without(0), scene.image_without(1)]
        >>> removal_effects(model, inp, result, without).shape
        torch.Size([2, 14])
    """
    answer = ForcedAnswer(model, inp, result.target_ids, batch_size=batch_size)
    answer.check(result.token_log_probs)
    return answer.effects_of(images)


def object_shares(heat: Tensor, masks: Tensor, *, mean: bool = False) -> Tensor:
    """The share of a map that lies on each object.

    Args:
        heat (Tensor): the map, ``(H, W)``; its positive part is taken
        masks (Tensor): ``(objects, H, W)``, True on the object
        mean (bool, optional): takes the mean over the object's pixels instead of the
            sum, so that large objects have no advantage. Default: False

    Returns:
        *Tensor* ``(objects,)``, float64, divided by the sum of the whole map; zeros for
        a map of zeros.

    Raises:
        ValueError: sizes differ, the map is not finite, or a mask is empty.

    Examples::

        >>> import torch
        >>> from captum_dexar.metrics import object_shares
        >>> masks = torch.tensor([[[1, 0, 0, 0]], [[0, 1, 1, 0]]]).bool()
        >>> object_shares(torch.tensor([[1.0, 1.0, 2.0, 0.0]]), masks).tolist()
        [0.25, 0.75]
    """
    if masks.dim() != 3 or masks.shape[1:] != heat.shape:
        raise ValueError(
            "Expected masks (objects, H, W) of the size of the map (H, W), got "
            f"{tuple(masks.shape)} and {tuple(heat.shape)}."
        )
    heat = heat.detach().cpu().double().clamp(min=0)
    is_object = masks.detach().cpu().bool()
    areas = is_object.sum((1, 2))
    if not bool(torch.isfinite(heat).all()) or bool((areas == 0).any()):
        raise ValueError(
            "The map must be finite and no mask empty, got "
            f"{int((~torch.isfinite(heat)).sum())} values that are not finite and "
            f"{int((areas == 0).sum())} empty masks."
        )
    on_objects = (heat * is_object).sum((1, 2))
    total = heat.sum()
    if mean:
        on_objects = on_objects / areas
    return on_objects / total.where(total > 0, 1.0)


def effect_agreement(
    shares: Numbers,
    effects: Numbers,
    *,
    negligible: float = NEGLIGIBLE,
    similar: float = SIMILAR,
) -> EffectAgreement | None:
    """How the shares of a map agree with the true effects of objects on a word.

    Args:
        shares (Tensor or sequence of float): of each object, not negative; see
            :func:`object_shares`
        effects (Tensor or sequence of float): of each object, in nats
        negligible (float, optional): effects below it are none. Default: 0.05
        similar (float, optional): two effects are equal in ranks if they differ by less
            than this share of the larger one. Default: 0.1

    Returns:
        EffectAgreement; None if no object has an effect, so that nothing can be told of
        maps. A map whose shares are all equal has no order: its correlations are 0. One
        that lies on no object has 0 in everything.

    Raises:
        ValueError: the numbers of shares and effects differ, a share or ``negligible``
            is negative, a number is not finite, or ``similar`` is not in [0, 1).

    Examples::

        >>> from captum_dexar.metrics import effect_agreement
        >>> found = effect_agreement([0.5, 0.3, 0.1], [4.0, 0.0, 0.01])
        >>> found.spearman, found.top, round(found.overlap, 2), found.largest
        (1.0, 1.0, 0.56, 0.5)
        >>> effect_agreement([0.5, 0.3, 0.1], [0.0, 0.02, -0.01]) is None
        True
    """
    given, truth = _pair(shares, effects, negligible)
    if bool((given < 0).any()):
        raise ValueError(f"A share must not be negative, got {given.tolist()}.")
    levels = _levels(truth, similar)
    if not bool((truth > 0).any()):
        return None
    is_largest = levels == levels.max()
    pearson = top = None
    overlap = 0.0
    is_somewhere = bool((given > 0).any())
    if is_somewhere:
        scaled = given / given.sum()
        overlap = float(torch.minimum(scaled, truth / truth.sum()).sum())
    if not bool(is_largest.all()):
        pearson, top = _correlation(given, truth), 0.0
        if is_somewhere:
            top = float(is_largest[given == given.max()].double().mean())
    return EffectAgreement(
        _rank_correlation(given, levels),
        pearson,
        top,
        overlap,
        float(given[is_largest].sum()),
    )


def rank_agreement(
    values: Numbers,
    effects: Numbers,
    *,
    negligible: float = NEGLIGIBLE,
    similar: float = SIMILAR,
) -> float | None:
    """Spearman's rank correlation of values with true effects.

    Equal values have the mean of their ranks. Where effects are negligible or similar,
    no order is asked for: the values there get the mean of their ranks, too. So 1 can
    be reached whatever the effects are. Chance is 0. Of two objects, it is 1 or -1; or
    0, if their values are equal.

    Args:
        values (Tensor or sequence of float): shares of objects, or weights of words
        effects (Tensor or sequence of float): their true effects, in nats
        negligible, similar: as in :func:`effect_agreement`. In a row of effects each
            of which is similar to the next, all are equal

    Returns:
        float from -1 to 1, 0 if all values are equal; None if all effects are.

    Raises:
        ValueError: the numbers of values and effects differ, one is not finite,
            ``negligible`` is negative, or ``similar`` is not in [0, 1).

    Examples::

        >>> from captum_dexar.metrics import rank_agreement
        >>> rank_agreement([0.9, 0.2, 0.4], [3.0, 0.01, -0.2])
        1.0
        >>> rank_agreement([0.9, 0.2, 0.4], [3.0, 2.0, 1.0])
        0.5
        >>> rank_agreement([0.9, 0.2], [12.0, 12.4]) is None
        True
    """
    given, truth = _pair(values, effects, negligible)
    return _rank_correlation(given, _levels(truth, similar))


def _levels(truth: Tensor, similar: float) -> Tensor:
    """The rank of each effect among those that can be told apart, from 0."""
    check_share("similar", similar)
    ordered, places = truth.sort()
    steps = ordered.diff(prepend=ordered[:1])
    is_new = (steps > 0) & (steps >= similar * ordered)
    levels = torch.empty(len(truth), dtype=torch.long)
    levels[places] = is_new.long().cumsum(0)
    return levels


def _rank_correlation(values: Tensor, levels: Tensor) -> float | None:
    """Of values with levels; those of one level get the mean of their ranks."""
    if not len(levels) or bool((levels == levels[0]).all()):
        return None
    sums = torch.zeros(len(levels), dtype=torch.float64)
    counts = sums.index_add(0, levels, torch.ones_like(sums))
    means = sums.index_add(0, levels, _ranks(values)) / counts.clamp(min=1)
    return _correlation(means[levels], _ranks(levels))


def _pair(
    values: Numbers, effects: Numbers, negligible: float
) -> tuple[Tensor, Tensor]:
    """Values and effects as tensors; negligible effects are zero."""
    given, truth = (
        torch.as_tensor(
            one.detach().cpu() if isinstance(one, Tensor) else one, dtype=torch.float64
        )
        for one in (values, effects)
    )
    if given.dim() != 1 or given.shape != truth.shape:
        raise ValueError(
            "Expected as many effects as shares or weights, in one dimension, got "
            f"shapes {tuple(given.shape)} and {tuple(truth.shape)}."
        )
    if not bool(torch.isfinite(given).all() and torch.isfinite(truth).all()):
        raise ValueError(
            f"A number is not finite: {given.tolist()}, effects {truth.tolist()}."
        )
    check_nats("negligible", negligible)
    return given, truth.where(truth >= negligible, 0.0)


def check_nats(name: str, value: float) -> None:
    """Raises ValueError for a threshold that is none."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of nats, 0 or more, got {value}.")


def check_share(name: str, value: float) -> None:
    """Raises ValueError for what is no share below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be a share, from 0 to below 1, got {value}.")


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1; equal values have the mean of theirs."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = last - (counts - 1) / 2
    return ranks[places]


def _correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation; 0 if either is constant."""
    if bool((first == first[0]).all()) or bool((second == second[0]).all()):
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    # Scaled, so that squares of small shares don't vanish.
    first, second = first / first.abs().max(), second / second.abs().max()
    found = (first @ second) / (first.norm() * second.norm())
    # Ranks that are the same have a correlation of 1, whatever the machine rounds.
    return round(float(found.clamp(-1, 1)), 12)
