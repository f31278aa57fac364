"""How well maps know what the answer depends on, by perturbing the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from captum_dexar.evaluation.dataset import Example, read_regions, ReadRegions
from captum_dexar.evaluation.oracle import TrueMaskOracle
from captum_dexar.evaluation.protocols.base import (
    EvaluationProtocol,
    Line,
    Methods,
    WHOLE_ANSWER,
)
from captum_dexar.evaluation.protocols.explaining import Explained, explanations
from captum_dexar.metrics.fills import filling_pixels
from captum_dexar.metrics.forced_answer import ForcedAnswer
from captum_dexar.metrics.image_parts import check_unit, ImageParts, Mode, Order, Unit
from captum_dexar.metrics.perturbation import (
    check_fractions,
    FRACTIONS,
    Perturbation,
    perturbation_curves,
    RankedParts,
)
from captum_dexar.metrics.sufficiency import FRACTION, sufficiencies
from captum_dexar.vlm_attribution import VLMAttribution
from PIL import Image
from torch import Tensor

_ORDERS: tuple[Order, ...] = ("positive", "negative")
_REMOVAL: tuple[Mode, ...] = ("removal",)
_BOTH: tuple[Mode, ...] = ("removal", "insertion")
_DONE = {_REMOVAL: "removed", _BOTH: "removed or inserted"}


class PerturbationProtocol(EvaluationProtocol):
    """Removes parts of the image, and measures what the answer loses.

    - The map of the whole answer, under ``"whole answer"``: the areas of
      :func:`perturbation_curve`, most important parts first (``"positive AUC"``, larger
      is better) and least important first (``"negative AUC"``, smaller is better), and
      of the logarithm of both curves (``"positive log AUC"`` ...), whose mean no single
      answer dominates. The curves are kept in ``details``.
    - The map of each region's words, under the region's kind: ``"log-prob kept"``, the
      ``kept`` of :func:`sufficiency`; and its control ``"log-prob kept by nothing"``,
      the same for every method. Regions without a mask are left out.

    What chance scores depends on the model: the random map is a control.
    :class:`TrueMaskOracle` as a method gives the line of the true masks, for the whole
    answer all of them together.

    A method's images share passes with the original only, so that its line does not
    depend on other methods.

    Args:
        insertion (bool, optional): measures insertion as well (``"positive insertion
            AUC"``, smaller is better ...). Default: False
        fractions (sequence of float, optional), fill (str or tuple of int, optional),
            unit (str, optional), batch_size (int, optional): as in
            :func:`perturbation_curve`; no image as fill
        sufficient (float or None, optional): the share of the image that is shown for
            each word; None measures no words. Default: 0.1
        gen_args (Mapping, optional): arguments of ``generate``, for datasets without
            answers. Default: None, at most 25 tokens, greedily

    Raises:
        ValueError: there is no such fill or unit, fractions are not ascending in [0,
            1], or ``sufficient`` is not between 0 and 1.

    Examples::

        >>> from captum_dexar import LayerDexAR
        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.evaluation.protocols import PerturbationProtocol
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> example = next(iter(ShapesDataset(range(1), processor)))
        >>> methods = {"DEX-AR": (LayerDexAR(model), {})}
        >>> ids = {"sample": "0", "image": "0", "seed": 0}
        >>> protocol = PerturbationProtocol(fractions=(0.0, 0.3, 0.6))
        >>> (line,) = protocol.measure(methods, example, processor, **ids)
        >>> areas = line.values["whole answer"]
        >>> areas["positive AUC"][0] > areas["negative AUC"][0]
        True
    """

    name = "perturbation"
    controls = ("random", "oracle")

    def __init__(
        self,
        *,
        insertion: bool = False,
        fractions: Sequence[float] = FRACTIONS,
        fill: str | Sequence[int] = "mean",
        unit: Unit = "token",
        sufficient: float | None = FRACTION,
        batch_size: int = 16,
        gen_args: Any = None,
    ) -> None:
        if not isinstance(fill, (str, tuple, list)):
            raise ValueError(
                f"fill must be 'mean', 'blur' or an RGB colour, got {fill!r}. An image "
                "does not fit all images of a dataset."
            )
        filling_pixels([Image.new("RGB", (1, 1))], fill)
        check_unit(unit)
        check_fractions(fractions)
        if sufficient is not None and not 0 < sufficient <= 1:
            raise ValueError(
                f"sufficient must lie between 0 and 1, or be None, got {sufficient}."
            )
        self.modes = _BOTH if insertion else _REMOVAL
        self.fractions = tuple(map(float, fractions))
        self.fill = fill
        self.unit: Unit = unit
        self.sufficient = sufficient
        self.batch_size = batch_size
        self.gen_args = gen_args

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationProtocol.description`."""
        return {
            "name": self.name,
            "measures": [
                *(
                    f"{_curve_name(order, mode)} {area}"
                    for mode in self.modes
                    for area in ("AUC", "log AUC")
                    for order in _ORDERS
                ),
                "log-prob kept",
                "log-prob kept by nothing",
            ],
            "x_label": f"share of the image's parts that is {_DONE[self.modes]}",
            "y_label": "normalised perplexity of the answer",
            "modes": list(self.modes),
            "fractions": list(self.fractions),
            "fill": self.fill if isinstance(self.fill, str) else list(self.fill),
            "unit": self.unit,
            "sufficient": self.sufficient,
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
        answer: ForcedAnswer | None = None
        for explained in explanations(
            methods, inp, target, processor, seed=seed, gen_args=self.gen_args
        ):
            model = VLMAttribution(explained.method, processor).model
            # The answer is the same for all methods, and so are its regions.
            if read is None:
                read = read_regions(regions, explained.result)
            if answer is None or answer.model is not model:
                ids = explained.result.target_ids
                answer = ForcedAnswer(model, inp, ids, self.fill, self.batch_size)
            answer.check(explained.result.token_log_probs)
            maps = _RankedMaps(explained, read, self.unit, seed)
            values, curves = self._of_answer(answer, maps)
            values |= self._of_words(answer, maps)
            yield Line(
                sample,
                image,
                explained.name,
                explained.seconds,
                values,
                maps.degenerate,
                {"answer": explained.result.answer, "curves": curves},
            )

    def _of_answer(self, answer: ForcedAnswer, maps: _RankedMaps) -> tuple[Any, Any]:
        """The areas, by kind, and the curves."""
        ranked = maps.of_answer()
        if ranked is None:
            return {}, {}
        areas: dict[str, list[float]] = {}
        curves: dict[str, Any] = {}
        kinds = [(order, mode) for mode in self.modes for order in _ORDERS]
        wanted = [Perturbation(ranked, *kind, self.fractions) for kind in kinds]
        for (order, mode), curve in zip(kinds, perturbation_curves(answer, wanted)):
            name = _curve_name(order, mode)
            areas[f"{name} AUC"] = [curve.area]
            areas[f"{name} log AUC"] = [curve.log_area]
            curves[name] = {"x": self.fractions, "y": curve.normalized}
        return {WHOLE_ANSWER: areas}, curves

    def _of_words(self, answer: ForcedAnswer, maps: _RankedMaps) -> Any:
        """What the words keep, by kind."""
        values: dict[str, dict[str, list[float]]] = {}
        if self.sufficient is None:
            return values
        kinds, words = maps.of_words()
        found = sufficiencies(answer, words, self.sufficient)
        for kind, one in zip(kinds, found):
            lists = values.setdefault(kind, {})
            lists.setdefault("log-prob kept", []).append(one.kept)
            by_nothing = lists.setdefault("log-prob kept by nothing", [])
            by_nothing.append(one.kept_by_nothing)
        return values


def _curve_name(order: Order, mode: Mode) -> str:
    return order if mode == "removal" else f"{order} {mode}"


@dataclass(eq=False)
class _RankedMaps:
    """The maps of one explained answer, as orders of the image's parts."""

    explained: Explained
    regions: ReadRegions
    unit: Unit
    seed: int
    degenerate: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.parts = ImageParts.of(self.explained.result.layout, self.unit)
        self.is_oracle = isinstance(self.explained.method, TrueMaskOracle)

    def of_answer(self) -> RankedParts | None:
        """The whole answer's; None if there is no true mask for the oracle."""
        masks = [mask for _, mask, _ in self.regions if mask is not None]
        if self.is_oracle and not masks:
            return None
        union = torch.stack(masks).any(0) if self.is_oracle else None
        return self._counted(WHOLE_ANSWER, None, union)

    def of_words(self) -> tuple[list[str], list[RankedParts]]:
        """Kinds and orders of the regions that have tokens and a mask."""
        kinds, words = [], []
        for tokens, mask, kind in self.regions:
            if tokens is None or mask is None:
                continue
            kinds.append(kind or "")
            own = mask if self.is_oracle else None
            words.append(self._counted(kind or "", tokens, own))
        return kinds, words

    def _counted(
        self, kind: str, tokens: list[int] | None, mask: Tensor | None
    ) -> RankedParts:
        result = self.explained.result
        if mask is None:
            ranked = RankedParts.of(self.parts, result, tokens, self.seed)
        else:
            ranked = RankedParts.of_maps(
                self.parts,
                self._on_first_image(mask),
                len(result.output_tokens),
                tokens,
                self.seed,
            )
        if ranked.ranking.is_degenerate:
            self.degenerate[kind] += 1
        return ranked

    def _on_first_image(self, mask: Tensor) -> list[Tensor]:
        """Masks are of the first image."""
        others = [torch.zeros(labels.shape) for labels in self.parts.labels[1:]]
        return [mask.float(), *others]
