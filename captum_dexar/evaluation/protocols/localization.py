"""How well maps find what words refer to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from captum_dexar.baselines import LayerUniformMap
from captum_dexar.evaluation.dataset import Example, read_regions, ReadRegions
from captum_dexar.evaluation.oracle import pooled_mask, TrueMaskOracle
from captum_dexar.evaluation.protocols.answer_maps import (
    filler_tokens,
    of_fillers,
    with_answer,
)
from captum_dexar.evaluation.protocols.base import (
    EvaluationProtocol,
    FILLER_ONLY,
    Line,
    Methods,
    WHOLE_ANSWER,
)
from captum_dexar.evaluation.protocols.explaining import Explained, explanations
from captum_dexar.evaluation.randomization import is_constant
from captum_dexar.metrics import (
    best_iou,
    energy_pointing_game,
    localization_chance,
    pointing_game,
    signal_to_noise,
    soft_iou,
)
from captum_dexar.metrics.localization import Score
from torch import Tensor

# Of one map and one mask.
Measure: TypeAlias = Callable[[Tensor, Tensor], Score]
POINTING_TOLERANCE = 4.0
# An infinite ratio would make the mean infinite.
MOST_DECIBELS = 60.0


def _pointing(heat: Tensor, mask: Tensor) -> Score:
    return pointing_game(heat, mask, POINTING_TOLERANCE)


def _bounded_ratio(heat: Tensor, mask: Tensor) -> Score:
    ratio = torch.as_tensor(signal_to_noise(heat, mask))
    return ratio.clamp(-MOST_DECIBELS, MOST_DECIBELS)


# They also take several maps and masks at once, (N, H, W).
LOCALIZATION: dict[str, Measure] = {
    "pointing": _pointing,
    "soft-IoU": soft_iou,
    "EPG": energy_pointing_game,
    "best IoU": best_iou,
    "SNR (dB)": _bounded_ratio,
}
# What chance scores, by its name in localization_chance.
_CHANCE_OF = {
    "pointing": "pointing_game",
    "soft-IoU": "soft_iou",
    "EPG": "energy_pointing_game",
    "best IoU": "best_iou",
    "SNR (dB)": "signal_to_noise",
}


class LocalizationProtocol(EvaluationProtocol):
    """Compares the map of each region's words with the region's mask.

    For signed maps, the positive part is measured, as in :func:`evaluate`.

    - A region with tokens and a mask: the map of these tokens, under the region's kind.
    - A region without tokens: the map of the whole answer, under ``"whole answer"``
      (with the region's kind behind a colon). The map of an answer tends to show the
      foreground, whatever the words are. Its control is therefore measured as well,
      under ``"whole answer, filler words only"``: equation (6) over the words of the
      regions without a mask or, where a dataset has none, over ``FUNCTION_WORDS``. Only
      what the answer scores beyond its control is due to its words.
    - Weights of tokens with and without a mask are kept in ``details``, for their
      AUROC.

    The ratio of a single map is limited to 60 dB either way, so that it has a mean.

    :class:`TrueMaskOracle` as a method gives the line of the true mask, and
    :class:`LayerUniformMap` what a map of ones scores (:func:`localization_chance`): a
    constant map has no contrast, and the measures as such give it 0.

    Args:
        measures (Mapping, optional): functions ``(map, mask) -> float`` by name; the
            map is ``(H, W)`` in [0, 1]. Default: ``LOCALIZATION``
        gen_args (Mapping, optional): arguments of ``generate``, for datasets without
            answers. Default: None, at most 25 tokens, greedily

    Examples::

        >>> from captum_dexar import LayerDexAR
        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.evaluation.protocols.localization import (
        ...     LocalizationProtocol
        ... )
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> example = next(iter(ShapesDataset(range(1), processor)))
        >>> methods = {"DEX-AR": (LayerDexAR(model), {})}
        >>> ids = {"sample": "0", "image": "0", "seed": 0}
        >>> protocol = LocalizationProtocol()
        >>> (line,) = protocol.measure(methods, example, processor, **ids)
        >>> line.values["colour"]["pointing"]
        [1.0, 1.0, 1.0]
    """

    name = "localization"
    controls = ("random", "uniform", "oracle")

    def __init__(
        self,
        measures: Mapping[str, Measure] = LOCALIZATION,
        gen_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.measures = dict(measures)
        self.gen_args = gen_args

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationProtocol.description`."""
        return {
            "name": self.name,
            "measures": list(self.measures),
            "pointing_tolerance": POINTING_TOLERANCE,
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
        """See :meth:`EvaluationProtocol.measure`."""
        inp, target, regions = example
        read: ReadRegions | None = None
        for explained in explanations(
            methods, inp, target, processor, seed=seed, gen_args=self.gen_args
        ):
            # The answer is the same for all methods, and so are its regions.
            if read is None:
                read = read_regions(regions, explained.result)
            maps = _MeasuredMaps(self.measures, explained, read)
            yield Line(
                sample,
                image,
                explained.name,
                explained.seconds,
                *maps.measured(),
                maps.details(),
            )


class _MeasuredMaps:
    """What is measured of one explained answer, region by region."""

    def __init__(
        self,
        measures: Mapping[str, Measure],
        explained: Explained,
        regions: ReadRegions,
    ) -> None:
        self.measures = measures
        self.explained = explained
        self.result = explained.result
        self.maps: list[tuple[str, Tensor, Tensor]] = []
        self.weights: dict[str, list[float]] = {"with_mask": [], "without": []}
        self.fillers: list[int] = []
        if any(tokens is None for tokens, *_ in regions):
            self.fillers = filler_tokens(self.result, regions)
        for tokens, mask, kind in regions:
            self._add(tokens, mask, kind or "")

    def _add(self, tokens: list[int] | None, mask: Tensor | None, kind: str) -> None:
        weights = self.result.token_weights
        if weights is not None and tokens is not None:
            part = "without" if mask is None else "with_mask"
            self.weights[part].append(float(weights[tokens].max()))
        if mask is None:
            return
        is_oracle = isinstance(self.explained.method, TrueMaskOracle)
        if is_oracle:
            pooled = pooled_mask(mask, self.result.layout)
            heat = with_answer(self.result, pooled).pixel_map()
        else:
            heat = self.result.pixel_map(tokens)
        if tokens is not None:
            self._keep(kind, heat, mask)
            return
        self._keep(f"{WHOLE_ANSWER}: {kind}" if kind else WHOLE_ANSWER, heat, mask)
        if self.fillers and not is_oracle:
            control = with_answer(
                self.result, of_fillers(self.explained, self.fillers)
            ).pixel_map()
            self._keep(FILLER_ONLY, control, mask)

    def _keep(self, kind: str, heat: Tensor, mask: Tensor) -> None:
        if heat.shape != mask.shape:
            raise ValueError(
                f"The mask must have the image's size, {tuple(heat.shape)}, got "
                f"{tuple(mask.shape)}."
            )
        self.maps.append((kind, heat.clamp(min=0), mask))

    def measured(
        self,
    ) -> tuple[dict[str, dict[str, list[float | None]]], Counter[str]]:
        """The values by kind and measure, and the number of constant maps by kind."""
        values: dict[str, dict[str, list[float | None]]] = {}
        degenerate: Counter[str] = Counter()
        if not self.maps:
            return values, degenerate
        heats = torch.stack([heat for _, heat, _ in self.maps])
        masks = torch.stack([mask for _, _, mask in self.maps])
        chance: dict[str, Tensor] = {}
        if type(self.explained.method) is LayerUniformMap:
            chance = localization_chance(masks, POINTING_TOLERANCE)
        else:
            degenerate.update(kind for kind, heat, _ in self.maps if is_constant(heat))
        for name, measure in self.measures.items():
            if measure is not LOCALIZATION.get(name):
                scores = [float(measure(*pair)) for pair in zip(heats, masks)]
            elif chance:
                scores = chance[_CHANCE_OF[name]].tolist()
            else:
                scores = measure(heats, masks).double().tolist()
            for (kind, _, _), score in zip(self.maps, scores):
                values.setdefault(kind, {}).setdefault(name, []).append(score)
        return values, degenerate

    def details(self) -> dict[str, Any]:
        """The answer and, if the method has them, its weights."""
        details: dict[str, Any] = {"answer": self.result.answer}
        if self.result.token_weights is not None:
            details["token_weights"] = self.weights
        return details
