"""Whether maps depend on the model's weights, and on the image."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

from captum_dexar.evaluation.dataset import (
    DamagedSample,
    EvaluationDataset,
    Example,
    read_regions,
    Regions,
)
from captum_dexar.evaluation.protocols.base import (
    DatasetProtocol,
    Line,
    Methods,
    WHOLE_ANSWER,
)
from captum_dexar.evaluation.protocols.explaining import (
    Explained,
    explanations,
    reseeded,
)
from captum_dexar.evaluation.randomization import (
    cascading_randomization,
    decoder_parts,
    independent_randomization,
    is_constant,
    map_similarity,
    MapSimilarity,
    ModelPart,
    vision_part,
)
from captum_dexar.inputs import ImagePromptInput
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.vlm_attribution import VLMAttribution
from torch import nn, Tensor

SIMILARITIES = ("Spearman", "SSIM")
UNRELATED, SWAPPED = "unrelated image", "swapped image"
HEAD, DECODER, VISION = "random head", "random decoder", "random vision tower"
CASCADE = "cascade"

# The tokens of a map (None: the whole answer), and the kind of its region.
_Chosen = list[tuple[list[int] | None, str]]


class SanityProtocol(DatasetProtocol):
    r"""How similar maps stay when the weights are made random or the image is another.

    J. Adebayo et al., *Sanity Checks for Saliency Maps*, 2018,
    https://arxiv.org/abs/1810.03292. The map of each region that has a mask (without
    any: of the whole answer) is compared with the map of the same words when

    - ``"random head"``: the output head is random;
    - ``"random decoder"``: the head and all decoder layers are;
    - ``"random vision tower"``: the vision tower is, where the model has one;
    - ``"swapped image"``: the same answer is given to the same question on another
      image;

    and, as the line of zero, with the map of a word of the same kind in another sample
    (``"unrelated image"``), its own image and answer. A method that explains the model
    comes down to that line. The similarities are Spearman's rank correlation and SSIM
    of the maps on the grid of image tokens; see :func:`map_similarity`.

    The curves ``"cascade: Spearman"`` and ``"cascade: SSIM"`` in a line's details tell
    the mean over the regions when 0, 1, 2 ... parts of the decoder are random: the
    head, then the layers from the last to the first. The weights of a part are the same
    at each depth, and others for each sample.

    The other image is that of the next sample with another image, which makes a line
    depend on its sample only, whatever was measured before it. So the protocol is
    constructed with the dataset.

    Args:
        dataset (EvaluationDataset): the dataset that it measures
        depths (int, optional): number of depths at which the cascade is explained, the
            head's included, for models with many layers; layers between two depths are
            made random together. Default: None, every layer
        gen_args (Mapping, optional): arguments of ``generate``, for datasets without
            answers. Default: None, at most 25 tokens, greedily

    Raises:
        ValueError: fewer than two depths.

    Examples::

        >>> from captum_dexar.comparison.methods import named_methods
        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.evaluation.protocols import SanityProtocol
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> dataset = ShapesDataset(range(2), processor, model)
        >>> methods = named_methods(["dexar"], model)
        >>> ids = {"sample": dataset.sample_id(0), "image": "0", "seed": 0}
        >>> protocol = SanityProtocol(dataset)
        >>> (line,) = protocol.measure(methods, dataset[0], processor, **ids)
        >>> line.details["curves"]["cascade: Spearman"]["x"]
        [0, 1, 2, 3, 4, 5, 6]
    """

    name = "sanity"

    def __init__(
        self,
        dataset: EvaluationDataset,
        depths: int | None = None,
        gen_args: Mapping[str, Any] | None = None,
    ) -> None:
        if depths is not None and depths < 2:
            raise ValueError(
                f"depths must be at least 2, the head and all layers, got {depths}."
            )
        self.dataset = dataset
        self.depths = depths
        self.gen_args = gen_args

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationProtocol.description`."""
        return {
            "name": self.name,
            "depths": self.depths,
            "measures": [
                f"{similarity}, {other}"
                for similarity in SIMILARITIES
                for other in (UNRELATED, SWAPPED, HEAD, DECODER, VISION)
            ],
            "x_label": "number of random parts: the head, then layers from the last",
            "y_label": "similarity to the map of the model as it is",
            "zero_lines": {
                f"{CASCADE}: {similarity}": f"{similarity}, {UNRELATED}"
                for similarity in SIMILARITIES
            },
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
            ValueError: all samples are of one image, or the dataset has no such sample.
            TypeError, RuntimeError: the weights can't be made random; see
                :func:`randomized`.
        """
        inp, target, regions = example
        other_inp, other_target, other_regions = self._next_of_another_image(sample)
        for explained in explanations(
            methods, inp, target, processor, seed=seed, gen_args=self.gen_args
        ):
            one = {explained.name: (explained.method, explained.arguments)}
            (other,) = explanations(
                one,
                other_inp,
                other_target,
                processor,
                seed=seed,
                gen_args=self.gen_args,
            )
            other_target = other.result.target_ids
            check = _Check(explained, regions, inp, processor, seed)
            check.compare(UNRELATED, other.result, _chosen(other_regions, other.result))
            check.swap(other_inp)
            check.randomize(self.depths)
            yield Line(
                sample,
                image,
                explained.name,
                check.seconds + other.seconds,
                check.values,
                check.degenerate,
                check.details(),
            )

    def _next_of_another_image(self, sample: str) -> Example:
        index = self.index_of(sample)
        number = len(self.dataset)
        image = self.dataset.image_id(index)
        for step in range(1, number):
            following = (index + step) % number
            if self.dataset.image_id(following) != image:
                try:
                    return self.dataset[following]
                except DamagedSample:
                    continue
        raise ValueError(
            "The sanity checks compare with another image, but the dataset has no "
            f"other than that of sample {sample!r}."
        )


class _Check:
    """The maps of one explained answer, compared with others."""

    def __init__(
        self,
        explained: Explained,
        regions: Regions,
        inp: Any,
        processor: Any,
        seed: int,
    ) -> None:
        self.explained = explained
        self.processor = processor
        self.seed = seed
        self.wrapped = VLMAttribution(reseeded(explained.method, seed), processor)
        self.model: nn.Module = self.wrapped.model
        self.inp = inp
        self.target = explained.result.target_ids
        self.chosen = _chosen(regions, explained.result)
        self.maps = _maps(explained.result, self.chosen)
        self.seconds = explained.seconds
        self.values: dict[str, dict[str, list[float | None]]] = {}
        self.degenerate = _constant(self.maps, self.chosen)
        self.curves: dict[str, dict[str, list[Any]]] = {
            f"{CASCADE}: {name}": {"x": [0], "y": [1.0]} for name in SIMILARITIES
        }
        if self.degenerate.total() == len(self.maps):
            for curve in self.curves.values():
                curve["y"] = [None]

    def swap(self, other_inp: Any) -> None:
        """Gives the same answer on another image."""
        if isinstance(self.inp, ImagePromptInput):
            asked = ImagePromptInput(
                other_inp.images, self.inp.prompt, self.processor, self.model
            )
            # A complete prompt does not tell the question from the template.
            asked.texts = self.inp.texts
            other_inp = asked
        self.compare(SWAPPED, self._explain(other_inp), self.chosen)

    def randomize(self, depths: int | None) -> None:
        """Makes the decoder random from the top, and the vision tower alone."""
        inp = self.inp
        if isinstance(inp, ImagePromptInput):
            # With random weights the places of the image tokens can't be checked; they
            # were, with the model's own.
            inp = copy(inp)
            inp.places_are_given = True

        def explain() -> VLMAttributionResult:
            return self._explain(inp)

        parts = _grouped(decoder_parts(self.model), depths)
        results = cascading_randomization(explain, self.model, parts, self.seed)
        for depth, (_, result) in enumerate(results, start=1):
            similarities = self._similarities(result, self.chosen)
            if depth == 1:
                self._add(HEAD, similarities)
            if depth == len(results):
                self._add(DECODER, similarities)
            self._continue_curves(depth, similarities)
        try:
            vision = vision_part(self.model)
        except TypeError:
            return
        ((_, result),) = independent_randomization(
            explain, self.model, [vision], self.seed
        )
        self.compare(VISION, result, self.chosen)

    def compare(self, name: str, result: VLMAttributionResult, chosen: _Chosen) -> None:
        """Adds the similarity of each region's map to that in another result."""
        self._add(name, self._similarities(result, chosen))

    def _similarities(
        self, result: VLMAttributionResult, chosen: _Chosen
    ) -> list[MapSimilarity]:
        others = _maps(result, chosen)
        self.degenerate += _constant(others, chosen)
        similarities = []
        for place, ((_, kind), one) in enumerate(zip(self.chosen, self.maps)):
            candidates = others
            if chosen is not self.chosen:
                same = [m for m, (_, other) in zip(others, chosen) if other == kind]
                candidates = same or others
            other = candidates[place % len(candidates)]
            similarities.append(map_similarity(one, other))
        return similarities

    def _add(self, name: str, similarities: list[MapSimilarity]) -> None:
        for (_, kind), found in zip(self.chosen, similarities):
            measures = self.values.setdefault(kind, {})
            for measure, value in zip(SIMILARITIES, (found.spearman, found.ssim)):
                measures.setdefault(f"{measure}, {name}", []).append(value)

    def _continue_curves(self, depth: int, similarities: list[MapSimilarity]) -> None:
        by_name = (
            [one.spearman for one in similarities],
            [one.ssim for one in similarities],
        )
        for name, values in zip(SIMILARITIES, by_name):
            known = [value for value in values if value is not None]
            curve = self.curves[f"{CASCADE}: {name}"]
            curve["x"].append(depth)
            curve["y"].append(sum(known) / len(known) if known else None)

    def details(self) -> dict[str, Any]:
        """The answer and the curves."""
        return {"answer": self.explained.result.answer, "curves": self.curves}

    def _explain(self, inp: Any) -> VLMAttributionResult:
        started = time.perf_counter()
        with warnings.catch_warnings():
            # Zero maps are counted.
            warnings.filterwarnings("ignore", "The map of the whole answer is zero")
            result = self.wrapped.attribute(
                inp, self.target, **self.explained.arguments
            )
        self.seconds += time.perf_counter() - started
        return result


def _chosen(regions: Regions, result: VLMAttributionResult) -> _Chosen:
    """The regions that refer to something in the image, or the whole answer."""
    read = [
        (tokens, kind or "" if tokens is not None else WHOLE_ANSWER)
        for tokens, mask, kind in read_regions(regions, result)
        if mask is not None
    ]
    return read or [(None, WHOLE_ANSWER)]


def _maps(result: VLMAttributionResult, chosen: _Chosen) -> list[Tensor]:
    """Their maps, on the first image where there are several."""
    maps = [result.token_map_of(tokens) for tokens, _ in chosen]
    return [one[0] if isinstance(one, list) else one for one in maps]


def _constant(maps: list[Tensor], chosen: _Chosen) -> Counter[str]:
    """The number of constant maps by kind."""
    return Counter(kind for one, (_, kind) in zip(maps, chosen) if is_constant(one))


def _grouped(parts: list[ModelPart], depths: int | None) -> list[ModelPart]:
    """The head, and the layers in groups of about the same number."""
    head, layers = parts[0], parts[1:]
    if depths is None or depths > len(layers):
        return parts
    number = depths - 1
    bounds = [round(place * len(layers) / number) for place in range(number + 1)]
    groups = [layers[start:stop] for start, stop in zip(bounds, bounds[1:])]
    return [
        head,
        *(
            ModelPart(group[-1].name, tuple(m for part in group for m in part.modules))
            for group in groups
        ),
    ]
