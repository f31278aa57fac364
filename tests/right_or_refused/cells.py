"""One cell of the table: right, refused, or wrong."""

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.helpers.independent import Reference
from tests.right_or_refused.argument import Argument
from tests.right_or_refused.setting import SEED, Setting
from tests.right_or_refused.ways import Explained, Way
from torch import Tensor

REFUSALS = (ValueError, TypeError, NotImplementedError, RuntimeError)
# Answers of all prompts, each ``(answers of the prompt, tokens)``.
Answers = tuple[Tensor, ...]


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
    """What plain generation does on a copy that the package never sees.

    Attributes:
        answers: of all prompts; several possibilities, if the answers of a batch are
            drawn differently from those of its prompts one by one
        error: how it refuses
        changes: what it leaves changed in the model
    """

    answers: tuple[Answers, ...]
    error: Exception | None
    changes: frozenset[str]


def outcome(setting: Setting, argument: Argument, way: Way) -> Outcome:
    """Runs one cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _expected(setting, argument, way.before)
        model = argument.configured(setting, setting.model)
        method = VLMAttribution(LayerDexAR(model, engine=way.engine))
        arguments = argument.call(setting)
        if way.is_given:
            if expected.error is not None:
                return Outcome("refused", "generate gives no answer")
            arguments = {"target": expected.answers[0][0][0]}
        setting.watch(model)
        error: Exception | None = None
        # Forked, so that drawing random numbers is none of the changes.
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            try:
                prompts = setting.prompts(way.before)
                explained = way.run(method, prompts, arguments)
            except Exception as raised:
                error = raised
        left = sorted(setting.changes(model) - expected.changes)
        if left:
            return Outcome("wrong", f"changed afterwards: {left}, {error!r}")
        if error is not None:
            return _refused(setting, argument, error, expected.error)
        if expected.error is not None:
            return Outcome("wrong", f"generate itself raises {expected.error!r}")
        return _compared(setting, argument, way, explained, expected.answers)


@lru_cache(maxsize=None)
def _expected(
    setting: Setting, argument: Argument, before: tuple[int, ...]
) -> Expected:
    model = argument.configured(setting, setting.pristine)
    prompts = setting.prompts(before)
    setting.watch(model)
    possible: list[Answers] = []
    error = None

    def generated(inputs: dict[str, Any]) -> Tensor:
        return setting.generated(model, inputs, argument.call(setting))

    with torch.random.fork_rng():
        try:
            if argument.is_random and len(prompts) > 1 and setting.case.can_be_padded:
                torch.manual_seed(SEED)
                rows = generated(setting.batch(prompts))
                possible.append(rows.split(len(rows) // len(prompts)))
            torch.manual_seed(SEED)
            possible.append(tuple(generated(prompt) for prompt in prompts))
        except Exception as raised:
            error = raised
    return Expected(tuple(possible), error, setting.changes(model))


def _refused(
    setting: Setting,
    argument: Argument,
    error: Exception,
    by_generate: Exception | None,
) -> Outcome:
    named = f"{argument.named}|{setting.wrapper.named}"
    said = f"{type(error).__name__}: {error}".replace("\n", " ")
    is_clear = isinstance(error, REFUSALS) and re.search(named, str(error))
    if is_clear:
        return Outcome("refused", said)
    if type(error) is type(by_generate):
        return Outcome("refused", f"generate itself does, {said}")
    return Outcome("wrong", f"a refusal that does not say {argument.named!r}: {said}")


def _compared(
    setting: Setting,
    argument: Argument,
    way: Way,
    explained: list[Explained],
    possible: tuple[Answers, ...],
) -> Outcome:
    ids = [one.ids.tolist() for one in explained]
    matching = [
        answers
        for answers in possible
        if all(len(answer) == 1 for answer in answers)
        and [answer[0].tolist() for answer in answers] == ids
    ]
    if not matching:
        right = [[answer.tolist() for answer in answers] for answers in possible]
        return Outcome("wrong", f"explained {ids}, but generate answers {right[-1]}")
    wrong = []
    for seed, (length, one) in enumerate(zip(way.before, explained)):
        changed = {} if argument.inputs is None else argument.inputs(setting)
        reference = setting.reference(seed, length, one.ids, changed)
        large = {
            name: f"{error:.1g}"
            for name, error in errors(one, reference).items()
            if not error <= setting.case.tolerance
        }
        if large:
            wrong.append(f"prompt {seed}: {large}")
    return Outcome("wrong", "; ".join(wrong)) if wrong else Outcome("right")


def errors(one: Explained, reference: Reference) -> dict[str, float]:
    """The largest error of every field, relative to its largest value."""
    placed = one.placed
    heads = reference.head_weights
    return {
        "maps": _error(one.token_attr, reference.token_attr[:, placed]),
        "layer maps": _error(one.layer_attr, reference.layer_attr[..., placed]),
        "head weights": _error(one.head_weights, heads),
        # A difference of maxima: relative to what it is a difference of.
        "token weights": _error(one.token_weights, reference.token_weights, heads),
        "log-probs": _error(one.token_log_probs, reference.token_log_probs),
    }


def _error(value: Tensor, reference: Tensor, scale: Tensor | None = None) -> float:
    if value.shape != reference.shape:
        return float("inf")
    largest = (reference if scale is None else scale).abs().max()
    difference = (value.double() - reference).abs().max()
    # Where all is zero, it has to be zero.
    return float(difference / largest.clamp(min=torch.finfo(torch.float32).tiny))
