"""One cell of the table: right, refused, or wrong."""

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMAttributionResult
from tests.helpers.independent import Reference
from tests.helpers.untouched import state_of
from tests.right_or_refused.arguments import Argument
from tests.right_or_refused.setting import EQUAL, Setting, UNEQUAL, SEED
from torch import Tensor

REFUSALS = (ValueError, TypeError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Outcome:
    """What has come of a cell.

    Attributes:
        kind: "right", "refused" or "wrong"
        text: the reason of a refusal, or what is wrong
    """

    kind: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" if self.text else self.kind


@dataclass(frozen=True, eq=False)
class Expected:
    """What plain generation gives for each prompt, or how it refuses."""

    answers: tuple[Tensor, ...] = ()
    error: Exception | None = None
    changes: frozenset[str] = frozenset()


class Wrong(Exception):
    """A silent difference."""


Explain = Callable[[Setting, Any, dict[str, Any]], list["Explained"]]


@dataclass(frozen=True, eq=False)
class Explained:
    ids: Tensor
    token_attr: Tensor
    token_weights: Tensor
    head_weights: Tensor
    layer_attr: Tensor
    token_log_probs: Tensor
    placed: Tensor

    @classmethod
    def of(cls, *parts: VLMAttributionResult) -> "Explained":
        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return cls(
            joined("target_ids"),
            joined("token_attr"),
            joined("token_weights"),
            joined("head_weights"),
            joined("layer_attr"),
            joined("token_log_probs"),
            parts[0].layout.placed,
        )


@dataclass(frozen=True)
class Way:
    """A way of running the method.

    Attributes:
        name: in the table
        run: the explanations of some prompts
        before: the prompts' numbers of text tokens before the image
        engine: of the method
    """

    name: str
    run: Callable[[VLMAttribution, list[dict[str, Any]], dict[str, Any]], list[Explained]]
    before: tuple[int, ...] = EQUAL[:1]
    engine: str = "closed_form"


def attributed(method: VLMAttribution, prompts: Any, arguments: Any) -> list[Explained]:
    return [Explained.of(method.attribute(prompts[0], gen_args=arguments))]


def listed(method: VLMAttribution, prompts: Any, arguments: Any) -> list[Explained]:
    return [Explained.of(one) for one in method.attribute(prompts, gen_args=arguments)]


def streamed(method: VLMAttribution, prompts: Any, arguments: Any) -> list[Explained]:
    parts = list(method.stream(prompts[0], gen_args=arguments))
    if not parts:
        raise Wrong("no token and no error")
    return [Explained.of(*parts)]


ATTRIBUTE = Way("attribute", attributed)
LIST = Way("list", listed, EQUAL)
PADDED = Way("list, padded", listed, UNEQUAL)
STREAM = Way("stream", streamed)
AUTOGRAD = Way("attribute, autograd", attributed, engine="autograd")
AUTOGRAD_STREAM = Way("stream, autograd", streamed, engine="autograd")
GIVEN = Way("given", attributed)
WAYS = (ATTRIBUTE, LIST, PADDED, STREAM, GIVEN, AUTOGRAD, AUTOGRAD_STREAM)


def outcome(setting: Setting, argument: Argument, way: Way) -> Outcome:
    """Runs one cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way is GIVEN:
            return _given(setting, argument)
        expected = expected_of(setting, argument, way.before)
        model = argument.configured(setting, setting.model)
        method = VLMAttribution(LayerDexAR(model, engine=way.engine))
        before = state_of(model)
        explained, error = [], None
        try:
            with torch.random.fork_rng():
                torch.manual_seed(SEED)
                explained = way.run(
                    method, setting.prompts(way.before), argument.call(setting)
                )
        except Wrong as wrong:
            return Outcome("wrong", str(wrong))
        except Exception as raised:
            error = raised
        after = state_of(model)
        changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
        left = sorted(changed - expected.changes)
        if left:
            return Outcome("wrong", f"left behind {left[:3]}; {error!r}"[:200])
        if error is not None:
            return refusal(argument, error, expected.error)
        if expected.error is not None:
            return Outcome("wrong", f"explained, but generate raises {expected.error!r}"[:200])
        return compared(setting, way.before, explained, expected.answers)


def _given(setting: Setting, argument: Argument) -> Outcome:
    expected = expected_of(setting, argument, EQUAL[:1])
    if expected.error is not None:
        return Outcome("refused", "by generate")
    model = argument.configured(setting, setting.model)
    answer = expected.answers[0][0]
    result = VLMAttribution(LayerDexAR(model)).attribute(setting.prompt(), answer)
    return compared(setting, EQUAL[:1], [Explained.of(result)], (answer[None],))


def compared(setting: Setting, before: Any, explained: list[Explained], answers: tuple[Tensor, ...]) -> Outcome:
    wrong = []
    worst = 0.0
    for seed, (length, ours, answer) in enumerate(zip(before, explained, answers)):
        if answer.shape[0] != 1:
            wrong.append(f"{answer.shape[0]} answers were asked for, one is explained")
            continue
        if ours.ids.tolist() != answer[0].tolist():
            wrong.append(f"ids of prompt {seed}: {ours.ids.tolist()}, not {answer[0].tolist()}")
            continue
        reference = setting.reference(seed, length, answer[0])
        errors = differences(ours, reference)
        big = {name: f"{error:.1g}" for name, error in errors.items() if not error <= setting.case.tolerance}
        worst = max(worst, *errors.values())
        if big:
            wrong.append(f"prompt {seed}: {big}")
    return Outcome("wrong", "; ".join(wrong)) if wrong else Outcome("right")


def differences(ours: Explained, reference: Reference) -> dict[str, float]:
    """Errors of all fields, relative to the largest value of each."""
    placed = ours.placed
    scale = reference.head_weights.abs().max()
    return {
        "maps": _error(ours.token_attr, reference.token_attr[:, placed]),
        "layer maps": _error(ours.layer_attr, reference.layer_attr[..., placed]),
        "head weights": _error(ours.head_weights, reference.head_weights),
        "token weights": _error(ours.token_weights, reference.token_weights, scale),
        "log-probs": _error(ours.token_log_probs, reference.token_log_probs),
    }


def _error(value: Tensor, reference: Tensor, scale: Tensor | None = None) -> float:
    if value.shape != reference.shape:
        return float("inf")
    largest = reference.abs().max() if scale is None else scale
    difference = (value.double() - reference.double()).abs().max()
    return float(difference / largest.clamp(min=1e-6))


def refusal(argument: Argument, error: Exception, by_generate: Exception | None) -> Outcome:
    said = f"{type(error).__name__}: {error}".replace("\n", " ")
    if by_generate is not None and type(error) is type(by_generate):
        return Outcome("refused", "by generate, " + said[:150])
    if not isinstance(error, REFUSALS):
        return Outcome("wrong", said[:200])
    if not re.search(argument.named, str(error)):
        return Outcome("wrong", f"the argument is not named: {said}"[:300])
    return Outcome("refused", said[:150])


@lru_cache(maxsize=None)
def expected_of(setting: Setting, argument: Argument, before: tuple[int, ...]) -> Expected:
    """What plain generation does on an untouched copy."""
    model = argument.configured(setting, setting.pristine)
    prompts = setting.prompts(before)
    if argument.is_random and len(prompts) > 1:
        prompts = [setting.batch(prompts)]
    answers, was = [], state_of(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for prompt in prompts:
                answers.append(
                    setting.generated(model, prompt, argument.call(setting))
                )
    except Exception as error:
        return Expected(error=error, changes=_changes(was, state_of(model)))
    changes = _changes(was, state_of(model))
    if argument.is_random and len(before) > 1:
        answers = list(answers[0].split(1))
    return Expected(tuple(answers), None, changes)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> frozenset[str]:
    names = before.keys() | after.keys()
    return frozenset(n for n in names if before.get(n) != after.get(n))
