"""Localisation and true effects of the same explanations."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from captum_dexar.evaluation.dataset import EvaluationDataset, Example
from captum_dexar.evaluation.protocols import EffectsProtocol, LocalizationProtocol
from captum_dexar.evaluation.protocols.base import EvaluationProtocol, Line, Methods
from tests.extension_study.methods import CandidateMethod

EQUATION_6, PLACES = "equation 6", "places"


class BothProtocols(EvaluationProtocol):
    """The lines of :class:`LocalizationProtocol` with those of
    :class:`EffectsProtocol`.

    Token weights are those of words with a place in the image against filler words; of
    candidates, both their weights are kept.

    Args:
        dataset (EvaluationDataset): drawn scenes
    """

    name = "localization and effects"

    def __init__(self, dataset: EvaluationDataset) -> None:
        self.localization = LocalizationProtocol()
        self.effects = EffectsProtocol(dataset)

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationProtocol.description`."""
        parts = [self.localization.description(), self.effects.description()]
        return {
            "name": self.name,
            "measures": [name for part in parts for name in part["measures"]],
            "parts": parts,
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
        ids: dict[str, Any] = {"sample": sample, "image": image, "seed": seed}
        places = self.localization.measure(methods, example, processor, **ids)
        effects = self.effects.measure(methods, example, processor, **ids)
        # In turns, so that a method can give the same explanation twice.
        for ours, theirs in zip(places, effects, strict=True):
            method, _ = methods[ours.method]
            values = {kind: dict(of_kind) for kind, of_kind in ours.values.items()}
            for kind, of_kind in theirs.values.items():
                values.setdefault(kind, {}).update(of_kind)
            details = dict(ours.details)
            if isinstance(method, CandidateMethod):
                assert method.equation_6 is not None
                details[EQUATION_6] = _apart(method.equation_6.tolist(), example)
            yield replace(ours, values=values, details=details)


def _apart(weights: list[float], example: Example) -> dict[str, list[float]]:
    """The weights of words with a mask, and of those without."""
    _, _, regions = example
    apart: dict[str, list[float]] = {"with_mask": [], "without": []}
    assert not callable(regions)
    for tokens, mask, *_ in regions:
        if tokens is not None:
            largest = max(weights[place] for place in tokens)
            apart["without" if mask is None else "with_mask"].append(largest)
    return apart
