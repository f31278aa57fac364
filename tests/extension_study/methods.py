"""Candidates and baselines as methods that protocols can measure."""

from collections.abc import Callable, Mapping
from typing import Any

from captum.attr import Attribution
from captum_dexar.captum_methods import as_step_method
from captum_dexar.comparison.methods import named_methods
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.evaluation.oracle import (
    EffectsOracle,
    EffectsTokensOracle,
    TrueMaskOracle,
)
from captum_dexar.methods import DecoderLayerAttribution
from tests.extension_study.candidates import Candidate, CANDIDATES, scored
from tests.extension_study.eager_readings import LastReadings, TEMPLATE
from torch import nn, Tensor

BASELINES = (
    "dexar",
    "attention-gradient",
    "attention",
    "attention-last",
    "rollout",
    "tam",
)
SLOW = ("ig", "occlusion")
CHANCE = ("random", "uniform")
ORACLES = (TrueMaskOracle, EffectsTokensOracle, EffectsOracle)


class CandidateMethod(DecoderLayerAttribution):
    """A candidate, with its share as the weight of a token.

    Args:
        model (nn.Module): the model
        candidate (Candidate): the candidate
        last (LastReadings): where the readings come from

    Attributes:
        equation_6 (Tensor): the other weights of the last answer, ``(steps,)``
    """

    def __init__(
        self, model: nn.Module, candidate: Candidate, last: LastReadings
    ) -> None:
        super().__init__(model)
        self.candidate = candidate
        self.last = last
        self.equation_6: Tensor | None = None

    def attribute_steps(
        self,
        steps: DecodingSteps,
        cache: Any = None,
        *,
        on_layer: Callable[[int], object] | None = None,
        **arguments: Any,
    ) -> StepAttributions:
        """See :meth:`DecoderLayerAttribution.attribute_steps`."""
        readings = self.last.of(steps)
        scores = scored(self.candidate, readings)
        self.equation_6 = scores.weights
        return StepAttributions(
            token_attr=scores.maps[None].float(),
            token_log_probs=readings.log_probs[None].float(),
            token_weights=scores.shares[None].float(),
        )


class Remembered(DecoderLayerAttribution):
    """A method that does not explain the same answer twice in a row.

    Args:
        method (Attribution): the method
    """

    def __init__(self, method: Attribution) -> None:
        self.inner: Any = as_step_method(method)
        super().__init__(self.inner.model)
        self.parts_per_step = self.inner.parts_per_step
        self._key: tuple[Any, ...] = ()
        self._explained: StepAttributions | None = None

    def get_name(self) -> str:
        """The method's name."""
        return str(self.inner.get_name())

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """See :meth:`DecoderLayerAttribution.check_arguments`."""
        self.inner.check_arguments(arguments)

    def attribute_steps(
        self,
        steps: DecodingSteps,
        cache: Any = None,
        *,
        on_layer: Callable[[int], object] | None = None,
        **arguments: Any,
    ) -> StepAttributions:
        """See :meth:`DecoderLayerAttribution.attribute_steps`."""
        pixels = steps.prompt.inputs[steps.prompt.adapter.pixel_input]
        key = (
            pixels.numpy().tobytes(),
            tuple(steps.prompt.ids.flatten().tolist()),
            tuple(steps.answer_ids.flatten().tolist()),
        )
        if self._explained is None or key != self._key:
            self._explained = self.inner.attribute_steps(
                steps, cache, on_layer=on_layer, **arguments
            )
            self._key = key
        return self._explained


def one_pass_methods(model: nn.Module, processor: Any) -> dict[str, Any]:
    """Candidates, baselines of one pass, chance and oracles, by name."""
    template_ids = processor.tokenizer(TEMPLATE, add_special_tokens=False)["input_ids"]
    last = LastReadings(template_ids)
    return {
        **{
            one.name: (CandidateMethod(model, one, last), {})
            for one in CANDIDATES.values()
        },
        **_remembered(BASELINES, model),
        **named_methods(CHANCE, model),
        **{one.name: (one(model), {}) for one in ORACLES},
    }


def slow_methods(model: nn.Module) -> dict[str, Any]:
    """Integrated Gradients and occlusion, by name."""
    return _remembered(SLOW, model)


def _remembered(names: tuple[str, ...], model: nn.Module) -> dict[str, Any]:
    return {
        title: (Remembered(method), arguments)
        for title, (method, arguments) in named_methods(names, model).items()
    }
