"""Whether the most important part of the image is enough for a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captum_dexar.inputs import Target
from captum_dexar.metrics.fills import Fill
from captum_dexar.metrics.forced_answer import ForcedAnswer
from captum_dexar.metrics.image_parts import Unit
from captum_dexar.metrics.perturbation import (
    Perturbation,
    perturbation_curves,
    ranked_parts,
    RankedParts,
)
from captum_dexar.result.answer_maps import Selection
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.result.words import Word
from captum_dexar.vlm_attribution import VLMAttribution
from captum_dexar.vlm_forward import VLMForward
from torch import nn, Tensor

# The share of the image that is shown.
FRACTION = 0.1


@dataclass(frozen=True)
class Sufficiency:
    """How probable a word is when only the top of its map is shown.

    See :func:`sufficiency`.

    Attributes:
        fraction (float): the share of the image's parts that is shown
        log_prob (float): the word's log-probability then, the sum over its tokens
        unperturbed_log_prob (float): the same on the original image
        empty_log_prob (float): the same when nothing is shown
        is_degenerate (bool): whether the map is constant, so that random parts are
            shown
    """

    fraction: float
    log_prob: float
    unperturbed_log_prob: float
    empty_log_prob: float
    is_degenerate: bool

    @property
    def kept(self) -> float:
        """``log p(word | top of its map) - log p(word | image)``, in nats.

        0 if nothing is lost, negative if the word is less probable; it can be positive.
        Higher is better.
        """
        return self.log_prob - self.unperturbed_log_prob

    @property
    def kept_by_nothing(self) -> float:
        """``log p(word | nothing shown) - log p(word | image)``, in nats.

        The control of :attr:`kept`, the same for all maps: about 0 for words that do
        not depend on the image.
        """
        return self.empty_log_prob - self.unperturbed_log_prob


def sufficiency(
    model: VLMAttribution | VLMForward | nn.Module,
    inp: Any,
    attribution: VLMAttributionResult | Tensor | Sequence[Tensor],
    selection: Selection | Word = None,
    target: Target = None,
    *,
    fraction: float = FRACTION,
    fill: Fill = "mean",
    unit: Unit = "token",
    seed: int = 0,
    batch_size: int = 16,
) -> Sufficiency:
    r"""The log-probability that a word keeps when only the top of its map is shown.

    The parts of the image with the largest values in the word's own map are shown, the
    rest is filled. Earlier tokens of the answer are given to the model unchanged, so
    that they may tell it about the image: a word has to be compared with
    ``kept_by_nothing``, which shows nothing, and with random maps of the same model.
    What random maps keep depends on the model and can't be computed.

    Args:
        model, inp, attribution, target: as in :func:`perturbation_curve`
        selection (int, tuple, sequence of int or Word, optional): the word. Default:
            None, the whole answer
        fraction (float, optional): the share of the image's parts that is shown.
            Default: 0.1
        fill, unit, seed, batch_size: as in :func:`perturbation_curve`

    Returns:
        Sufficiency, whose ``kept`` is ``log p(word | top of its map) - log p(word |
        image)``, 0 if nothing is lost and negative otherwise; higher is better.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.
        TypeError, ValueError, IndexError, RuntimeError: as :func:`perturbation_curve`.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.metrics import sufficiency
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> dexar = VLMAttribution(LayerDexAR(model), processor)
        >>> result = dexar.attribute(inp)
        >>> cross = result.words()[6]
        >>> found = sufficiency(model, inp, result, cross)
        >>> found.kept > found.kept_by_nothing
        True
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
    (found,) = sufficiencies(answer, [ranked], fraction)
    return found


def sufficiencies(
    answer: ForcedAnswer, words: Sequence[RankedParts], fraction: float
) -> list[Sufficiency]:
    """That of several words of one answer, from as few passes as possible."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}.")
    shown = (0.0, fraction)
    wanted = [Perturbation(word, "positive", "insertion", shown) for word in words]
    found = []
    for curve in perturbation_curves(answer, wanted):
        empty, top = curve.log_probs.sum(1).tolist()
        found.append(
            Sufficiency(
                fraction=fraction,
                log_prob=top,
                unperturbed_log_prob=float(curve.unperturbed_log_probs.sum()),
                empty_log_prob=empty,
                is_degenerate=curve.is_degenerate,
            )
        )
    return found
