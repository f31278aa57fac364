"""Measures how well maps localise what words refer to."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.comparison.comparison import compare, Method, named_pairs
from captum_dexar.evaluation.dataset import Example, Mask, read_regions, Region, Regions
from captum_dexar.evaluation.protocols.base import ALL
from captum_dexar.evaluation.protocols.explaining import reseeded
from captum_dexar.evaluation.protocols.localization import LOCALIZATION, Measure
from captum_dexar.metrics import token_weight_auroc
from captum_dexar.result.result import VLMAttributionResult
from torch import Tensor
from tqdm.auto import tqdm

# Example, Mask, Region and Regions are importable from here, too.
__all__ = [
    "evaluate",
    "Evaluation",
    "Example",
    "LOCALIZATION",
    "Mask",
    "Measure",
    "Region",
    "Regions",
]


@dataclass(frozen=True)
class Evaluation:
    """The quality of several methods' maps; see :func:`evaluate`.

    Attributes:
        means (dict): mean of each measure over the regions of a kind,
            ``means[method][kind][measure]``; kind ``"all"`` is over all regions
        num_regions (dict): number of regions with a mask, by kind
        weight_auroc (dict): by method, the probability that a region with a mask has a
            larger token weight than one without. None if the method has no weights, or
            the dataset lacks regions of either sort
    """

    means: dict[str, dict[str, dict[str, float]]]
    num_regions: dict[str, int]
    weight_auroc: dict[str, float | None]

    def table(self) -> str:
        """A Markdown table: one row per method, one column per kind and measure."""
        rows = []
        for method, kinds in self.means.items():
            cells = {"method": method.replace("|", "\\|")}
            for kind, means in kinds.items():
                cells |= {f"{kind}: {name}": f"{x:.3f}" for name, x in means.items()}
            auroc = self.weight_auroc[method]
            cells["weight AUROC"] = "" if auroc is None else f"{auroc:.3f}"
            rows.append(cells)
        lines = [list(rows[0]), *(list(cells.values()) for cells in rows)]
        text = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([text[0], "|" + "---|" * len(rows[0]), *text[1:]])


def evaluate(
    methods: Mapping[str, Method] | Sequence[Method],
    dataset: Iterable[Example],
    measures: Mapping[str, Measure] = LOCALIZATION,
    processor: Any = None,
    *,
    gen_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    r"""Measures the maps of several methods on a dataset.

    A dataset is any iterable of ``(input, target, regions)``: an input and its answer,
    as :meth:`VLMAttribution.attribute` takes them, and the image regions that parts of
    the answer refer to. A target of None is the model's own answer, which is generated
    once and explained by all methods. A region is ``(tokens, mask)`` or ``(tokens,
    mask, kind)``:

    - ``tokens``: positions in the answer, from 0. They count the model's tokens, not
      words: for a split word, list all of its tokens. Their attributions are summed
      into one map and their largest weight is used, as in
      :meth:`VLMAttributionResult.words`. None for the map of the whole answer, which
      has no weight.
    - ``mask``: ``(H, W)`` bool on the original image (the first of several), True on
      the object. None if the tokens refer to nothing in the image; such regions are
      used only for ``weight_auroc``.
    - ``kind``: a label, such as ``"colour"``; means are also given for each kind.

    The regions are a sequence, or a function from the :class:`VLMAttributionResult` to
    one, for answers that are not known before. For signed maps, the positive part is
    measured.

    Args:
        methods (Mapping or sequence): as in :func:`captum_dexar.compare`
        dataset (iterable): examples, see above
        measures (Mapping, optional): functions ``(map, mask) -> float`` by name; the
            map is ``(H, W)`` in [0, 1]. Default: ``LOCALIZATION``
        processor (ProcessorMixin, optional): as in :class:`VLMAttribution`.
            Default: None
        gen_args (Mapping, optional): arguments of ``model.generate`` for the examples
            without a target. Default: None, at most 25 tokens, greedily
        seed (int, optional): example ``i`` uses ``seed + i`` for the noise of
            :class:`LayerRandomMap`. Default: 0
        progress (bool, optional): shows a progress bar. Default: False

    Returns:
        Evaluation

    Raises:
        ValueError: no region has a mask; a region has no tokens or invalid positions;
            a mask is empty or differs from the image in size.
        TypeError, ValueError, NotImplementedError, RuntimeError: as
            :func:`captum_dexar.compare`.

    Examples::

        >>> from captum_dexar import LayerDexAR
        >>> from captum_dexar.baselines import LayerUniformMap
        >>> from captum_dexar.evaluation import evaluate, ShapesDataset
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> methods = {"DEX-AR": LayerDexAR(model), "chance": LayerUniformMap(model)}
        >>> dataset = ShapesDataset(range(2), processor)
        >>> evaluation = evaluate(methods, dataset, processor=processor)
        >>> evaluation.means["DEX-AR"]["colour"]["pointing"]
        1.0
        >>> print(evaluation.table())
        | method | colour: pointing | ...
    """
    given = named_pairs(methods)
    collected = {name: _Measurements() for name in given}
    bar = tqdm(dataset, desc="explaining", unit="example", disable=not progress)
    for index, (inp, target, regions) in enumerate(bar):
        seeded = {
            name: (reseeded(method, seed + index), arguments)
            for name, (method, arguments) in given.items()
        }
        compared = compare(
            seeded, inp, target, processor, gen_args if target is None else None
        )
        for name, result in compared.results.items():
            try:
                for tokens, mask, kind in read_regions(regions, result):
                    collected[name].add(result, measures, tokens, mask, kind)
            except ValueError as error:
                raise ValueError(f"Example {index}: {error}") from error
    first = next(iter(collected.values()))
    if not first.values:
        raise ValueError("No region of the dataset has a mask: nothing is measured.")
    return Evaluation(
        means={name: one.means() for name, one in collected.items()},
        num_regions={kind: len(values) for kind, values in first.groups().items()},
        weight_auroc={name: one.weight_auroc() for name, one in collected.items()},
    )


class _Measurements:
    """The measurements of one method, region by region."""

    def __init__(self) -> None:
        self.values: dict[str | None, list[dict[str, float]]] = defaultdict(list)
        self.weights: dict[bool, list[float]] = {True: [], False: []}

    def add(
        self,
        result: VLMAttributionResult,
        measures: Mapping[str, Measure],
        tokens: list[int] | None,
        mask: Tensor | None,
        kind: str | None,
    ) -> None:
        if result.token_weights is not None and tokens is not None:
            weight = float(result.token_weights[tokens].max())
            self.weights[mask is not None].append(weight)
        if mask is None:
            return
        heat = result.pixel_map(tokens).clamp(min=0)
        self.values[kind].append(
            {name: float(measure(heat, mask)) for name, measure in measures.items()}
        )

    def groups(self) -> dict[str, list[dict[str, float]]]:
        """The values of each kind of region, and of all regions."""
        everything = [one for values in self.values.values() for one in values]
        kinds = {kind: v for kind, v in self.values.items() if kind is not None}
        return {**kinds, ALL: everything}

    def means(self) -> dict[str, dict[str, float]]:
        """The mean of each measure, by kind."""
        return {
            kind: {name: _mean([one[name] for one in values]) for name in values[0]}
            for kind, values in self.groups().items()
        }

    def weight_auroc(self) -> float | None:
        """See :class:`Evaluation`; ties count half."""
        with_mask, without = self.weights[True], self.weights[False]
        has_mask = [True] * len(with_mask) + [False] * len(without)
        return token_weight_auroc([*with_mask, *without], has_mask)


def _mean(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())
