"""How well maps foretell what happens to words when an object is removed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.baselines import LayerUniformMap
from captum_dexar.evaluation.dataset import (
    EvaluationDataset,
    Example,
    read_regions,
    ReadRegions,
    RedrawnScenes,
)
from captum_dexar.evaluation.oracle import (
    EffectsOracle,
    EffectsTokensOracle,
    pooled_mask,
    TrueMaskOracle,
)
from captum_dexar.evaluation.protocols.answer_maps import (
    filler_tokens,
    is_filler,
    of_fillers,
    with_answer,
)
from captum_dexar.evaluation.protocols.base import (
    DatasetProtocol,
    FILLER,
    FILLER_ONLY,
    Line,
    Methods,
    WHOLE_ANSWER,
)
from captum_dexar.evaluation.protocols.explaining import Explained, explanations
from captum_dexar.evaluation.randomization import is_constant
from captum_dexar.metrics import (
    effect_agreement,
    EffectAgreement,
    object_shares,
    rank_agreement,
)
from captum_dexar.metrics.effects import check_nats, check_share, NEGLIGIBLE, SIMILAR
from captum_dexar.metrics.forced_answer import ForcedAnswer
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.vlm_attribution import VLMAttribution
from torch import Tensor

# A word whose effect is larger is less than half as probable without the objects.
SUBSTANTIAL = math.log(2)
WEIGHTS = f"{WHOLE_ANSWER}, weights of its words"
SPEARMAN, OVERLAP = "Spearman", "overlap"
# Attributes of EffectAgreement by the names of the measures, where shares are sums over
# the objects and where they are means.
_OF_SUMS = {
    SPEARMAN: "spearman",
    "Pearson": "pearson",
    "top-1": "top",
    OVERLAP: "overlap",
    "on largest": "largest",
}
_OF_MEANS = {
    "Spearman of means": "spearman",
    "Pearson of means": "pearson",
    "top-1 of means": "top",
}
# What the line of the true effects says besides.
EFFECT, INFORMATIVE, RANKED = "largest effect (nats)", "informative", "ranked"


class EffectsProtocol(DatasetProtocol):
    r"""Compares each object's share of a map with its true effect on the word.

    The dataset makes a scene again without an object. The object's **true effect** on a
    word is ``log p(word | image) - log p(word | image without it)``, the answer being
    the same; a map says how important the object is by the share of its positive part
    that lies on the object. In scenes of two objects or more, for each word of the
    answer (:func:`effect_agreement`):

    - ``"Spearman"``: their rank correlation; of two objects it is 1 or -1
    - ``"Pearson"``: their correlation
    - ``"top-1"``: whether the object with the largest share has the largest effect
    - ``"overlap"``: what both have in common when scaled to a sum of 1
    - ``"on largest"``: the share of the map on the object with the largest effect

    And, as a second reading, the first three with the mean over an object's pixels
    instead of the sum (``"Spearman of means"`` ...). All are higher for better maps.

    Words are the dataset's regions with tokens, or all words of the answer where it has
    none. Words without a mask have the kind ``"filler words"``, which is no part of
    ``"all"``. Words on which no object has an effect tell nothing of maps and are left
    out; those on which all objects have a similar effect, such as a relation's two, are
    left out of the first three. The map of the whole answer is compared with the
    effects on the whole answer; its control, as in :class:`LocalizationProtocol`, is
    the map of its filler words alone.

    Token weights are compared with what a word loses without *all* objects: rank
    correlation over the words of an answer (``"whole answer, weights of its words"``),
    and AUROC of the words that lose ``substantial`` nats or more against the others.
    These are measured in scenes of one object, too.

    A constant map scores 0 and is counted. Controls are

    - the random map, and :class:`LayerUniformMap`: what a map of ones, and so the
      objects' areas, foretell
    - :class:`TrueMaskOracle`: the mask of the word's own object
    - :class:`EffectsTokensOracle`: the most that a map of image tokens can score
    - :class:`EffectsOracle`: 1 in everything but ``"on largest"``. Its line also has
      the true effects (``"largest effect (nats)"``) and the shares of words that tell
      something of maps (``"informative"``) and of ranks (``"ranked"``)

    Args:
        dataset (EvaluationDataset): the dataset that it measures, with the methods of
            :class:`RedrawnScenes`
        negligible (float, optional): effects below it, in nats, are none. Default: 0.05
        similar (float, optional): two effects are equal in ranks if they differ by less
            than this share of the larger one. Default: 0.1
        substantial (float, optional): what a word has to lose for its weight to count
            among those that should be large, in nats. Default: log 2
        batch_size (int, optional): maximum number of images per pass. Default: 16
        gen_args (Mapping, optional): arguments of ``generate``, for datasets without
            answers. Default: None, at most 25 tokens, greedily

    Raises:
        TypeError: the dataset can't make its scenes again.
        ValueError: a threshold is negative, ``similar`` is not in [0, 1), or
            ``batch_size`` is less than 1.

    Examples::

        >>> from captum_dexar import LayerDexAR
        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.evaluation.protocols import EffectsProtocol
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> dataset = ShapesDataset(range(3), processor, model)
        >>> methods = {"DEX-AR": (LayerDexAR(model), {})}
        >>> ids = {"sample": dataset.sample_id(2), "image": "2", "seed": 0}
        >>> protocol = EffectsProtocol(dataset)
        >>> (line,) = protocol.measure(methods, dataset[2], processor, **ids)
        >>> line.values["colour"]["top-1"]
        [1.0, 1.0, 1.0]
    """

    name = "effects"
    controls = ("random", "uniform", "oracle", "effects-tokens", "effects-oracle")

    def __init__(
        self,
        dataset: EvaluationDataset,
        *,
        negligible: float = NEGLIGIBLE,
        similar: float = SIMILAR,
        substantial: float = SUBSTANTIAL,
        batch_size: int = 16,
        gen_args: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(dataset, RedrawnScenes):
            raise TypeError(
                "True effects need scenes that can be drawn again without an object, "
                f"but the dataset {getattr(dataset, 'name', dataset)!r} lacks "
                "object_masks(index) or without(index, objects). See "
                "captum_dexar.evaluation.RedrawnScenes."
            )
        check_nats("negligible", negligible)
        check_share("similar", similar)
        check_nats("substantial", substantial)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.dataset = dataset
        self.scenes: RedrawnScenes = dataset
        self.negligible = float(negligible)
        self.similar = float(similar)
        self.substantial = float(substantial)
        self.batch_size = batch_size
        self.gen_args = gen_args

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationProtocol.description`."""
        return {
            "name": self.name,
            "measures": [*_OF_SUMS, *_OF_MEANS, EFFECT, INFORMATIVE, RANKED],
            "weights": (
                f"words that lose {self.substantial:.2f} nats or more without the "
                "objects have a larger weight than words that lose less"
            ),
            "negligible": self.negligible,
            "similar": self.similar,
            "substantial": self.substantial,
            "gen_args": None if self.gen_args is None else dict(self.gen_args),
        }

    def measure(
        self,
        methods: Methods,
        example: Example,
        processor: Any,
        *,
        sample: str,
        image: str,
        seed: int,
    ) -> Iterator[Line]:
        """See :meth:`EvaluationProtocol.measure`.

        Raises:
            ValueError: the dataset has no such sample; a mask or a redrawn image has
                another size than the sample's image.
        """
        inp, target, regions = example
        read: ReadRegions | None = None
        answer: ForcedAnswer | None = None
        truth: _Truth | None = None
        for explained in explanations(
            methods, inp, target, processor, seed=seed, gen_args=self.gen_args
        ):
            model = VLMAttribution(explained.method, processor).model
            # The answer is the same for all methods, and so are its regions.
            if read is None:
                read = read_regions(regions, explained.result)
            if answer is None or truth is None or answer.model is not model:
                ids = explained.result.target_ids
                answer = ForcedAnswer(model, inp, ids, batch_size=self.batch_size)
                words = _words(read, explained.result)
                truth = self._truth(answer, words, sample)
            answer.check(explained.result.token_log_probs)
            fillers = filler_tokens(explained.result, read)
            maps = _ReadMaps(explained, truth, fillers, self.negligible, self.similar)
            maps.compare()
            maps.rank_weights(self.substantial)
            yield Line(
                sample,
                image,
                explained.name,
                explained.seconds,
                maps.values,
                maps.degenerate,
                maps.details,
            )

    def _truth(self, answer: ForcedAnswer, words: list[_Word], sample: str) -> _Truth:
        """The true effects on the words of a sample's answer."""
        index = self.index_of(sample)
        found = [torch.as_tensor(one) for one in self.scenes.object_masks(index)]
        first = answer.images[0]
        size = first.height, first.width
        for mask in found:
            if tuple(mask.shape) != size:
                raise ValueError(
                    f"The mask of an object must have the image's size, {size}, got "
                    f"{tuple(mask.shape)}."
                )
        count = len(found)
        left_out = [[place] for place in range(count)]
        if count > 1:
            left_out.append(list(range(count)))
        effects = answer.effects_of(
            self.scenes.without(index, objects) for objects in left_out
        )
        of_objects = effects[:count]
        # A single object is all of them; without any, nothing can be lost.
        of_all = effects[-1] if count else answer.unperturbed * 0
        masks = torch.stack(found).bool() if found else torch.zeros(0, *size).bool()
        return _Truth(words, masks, of_objects, of_all)


@dataclass(frozen=True, eq=False)
class _Word:
    """Tokens of the answer (None: all), their kind, and what they refer to."""

    tokens: list[int] | None
    kind: str
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class _Truth:
    """The objects' masks ``(objects, H, W)``, the effect of each on each token
    ``(objects, T)``, and that of all together ``(T,)``."""

    words: list[_Word]
    masks: Tensor
    of_objects: Tensor
    of_all: Tensor

    def effects(self, word: _Word) -> Tensor:
        """The effect of each object on a word, ``(objects,)``."""
        one = (
            self.of_objects if word.tokens is None else self.of_objects[:, word.tokens]
        )
        return one.sum(1)

    def total(self, word: _Word) -> float:
        """The effect of all objects together."""
        return float(self.of_all[word.tokens].sum())


def _words(regions: ReadRegions, result: VLMAttributionResult) -> list[_Word]:
    """The regions with tokens or, if there are none, all words."""
    words = [
        _Word(tokens, FILLER if mask is None else kind or "", mask)
        for tokens, mask, kind in regions
        if tokens is not None
    ]
    return words or [
        _Word(list(one.tokens), FILLER if is_filler(one) else "", None)
        for one in result.words()
    ]


class _ReadMaps:
    """The maps of one explained answer, read as the effects of objects."""

    def __init__(
        self,
        explained: Explained,
        truth: _Truth,
        fillers: list[int],
        negligible: float,
        similar: float,
    ) -> None:
        self.explained = explained
        self.result = explained.result
        self.truth = truth
        self.fillers = fillers
        self.negligible = negligible
        self.similar = similar
        self.values: dict[str, dict[str, list[float | None]]] = {}
        self.degenerate: Counter[str] = Counter()
        self.details: dict[str, Any] = {"answer": self.result.answer}

    def compare(self) -> None:
        """Adds what the maps score, if there are objects to compare."""
        if len(self.truth.masks) < 2:
            return
        union = self.truth.masks.any(0)
        answer = _Word(None, WHOLE_ANSWER, union)
        for word in (*self.truth.words, answer):
            self._add(word, word.kind)
        is_oracle = isinstance(self.explained.method, (TrueMaskOracle, EffectsOracle))
        if self.fillers and not is_oracle:
            self._add(answer, FILLER_ONLY)
        if type(self.explained.method) is EffectsOracle:
            words = self.truth.words
            self.details["effects"] = [self.truth.effects(word) for word in words]
            self.details["effects of all"] = [self.truth.total(word) for word in words]

    def _add(self, word: _Word, kind: str) -> None:
        effects = self.truth.effects(word)
        scores: dict[str, float | None] = {}
        for names, by_mean in ((_OF_SUMS, False), (_OF_MEANS, True)):
            found = self._agreement(word, kind, effects, by_mean)
            scores |= {
                name: None if found is None else getattr(found, attribute)
                for name, attribute in names.items()
            }
        if type(self.explained.method) is EffectsOracle:
            scores[EFFECT] = float(effects.max())
            scores[INFORMATIVE] = float(scores[OVERLAP] is not None)
            scores[RANKED] = float(scores[SPEARMAN] is not None)
        of_kind = self.values.setdefault(kind, {})
        for name, score in scores.items():
            # Places in a list are words, for all methods.
            of_kind.setdefault(name, []).append(score)

    def _agreement(
        self, word: _Word, kind: str, effects: Tensor, by_mean: bool
    ) -> EffectAgreement | None:
        """None if nothing can be told of the word, or the method has no map of it."""
        heat = self._heat(word, kind, effects, by_mean)
        if heat is None:
            return None
        shares = object_shares(heat, self.truth.masks, mean=by_mean)
        found = effect_agreement(
            shares, effects, negligible=self.negligible, similar=self.similar
        )
        is_uniform = type(self.explained.method) is LayerUniformMap
        is_counted = found is not None and not by_mean and not is_uniform
        if is_counted and is_constant(heat):
            self.degenerate[kind] += 1
        return found

    def _heat(
        self, word: _Word, kind: str, effects: Tensor, by_mean: bool
    ) -> Tensor | None:
        """A word's map on the pixels; None for the mask of a word without one."""
        method = self.explained.method
        if type(method) is LayerUniformMap:
            return torch.ones(self.truth.masks.shape[1:])
        if isinstance(method, EffectsOracle):
            return self._true_effects(effects, by_mean)
        if isinstance(method, TrueMaskOracle):
            if word.mask is None:
                return None
            return self._of_tokens(pooled_mask(word.mask, self.result.layout))
        if kind == FILLER_ONLY:
            return self._of_tokens(of_fillers(self.explained, self.fillers))
        return self.result.pixel_map(word.tokens)

    def _true_effects(self, effects: Tensor, by_mean: bool) -> Tensor:
        """The map whose sums (or means) over the objects are their effects."""
        masks = self.truth.masks
        heights = effects.where(effects >= self.negligible, 0.0)
        if not by_mean:
            heights = heights / masks.sum((1, 2))
        if not isinstance(self.explained.method, EffectsTokensOracle):
            return (heights[:, None, None] * masks).sum(0)
        layout = self.result.layout
        pooled = torch.stack([pooled_mask(mask, layout) for mask in masks])
        return self._of_tokens((heights.float()[:, None] * pooled).sum(0))

    def _of_tokens(self, values: Tensor) -> Tensor:
        return with_answer(self.result, values).pixel_map()

    def rank_weights(self, substantial: float) -> None:
        """Adds how well the words' weights foretell what they lose."""
        weights = self.result.token_weights
        words = self.truth.words
        if weights is None or not words:
            return
        own = [float(weights[word.tokens].max()) for word in words]
        totals = [self.truth.total(word) for word in words]
        # No map has to show them: they are told apart however near they are.
        rank = rank_agreement(own, totals, negligible=self.negligible, similar=0.0)
        self.values[WEIGHTS] = {SPEARMAN: [rank]}
        has_effect = [total >= substantial for total in totals]
        self.details["token_weights"] = {
            "with_effect": [w for w, is_large in zip(own, has_effect) if is_large],
            "without_effect": [w for w, large in zip(own, has_effect) if not large],
        }
