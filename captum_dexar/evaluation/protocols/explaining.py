"""Explains one answer with several methods, one after another."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from captum.attr import Attribution
from captum_dexar.baselines import LayerRandomMap
from captum_dexar.comparison.comparison import compare
from captum_dexar.evaluation.protocols.base import Methods
from captum_dexar.result.result import VLMAttributionResult


@dataclass(frozen=True, eq=False)
class Explained:
    """An answer that a method has explained.

    Attributes:
        name (str): the method's name
        method (Attribution): the method
        arguments (Mapping): arguments of its ``attribute``
        result (VLMAttributionResult): what it gave
        seconds (float): time of explaining, without generating
    """

    name: str
    method: Attribution
    arguments: Mapping[str, Any]
    result: VLMAttributionResult
    seconds: float


def explanations(
    methods: Methods,
    inp: Any,
    target: Any,
    processor: Any,
    *,
    seed: int,
    gen_args: Mapping[str, Any] | None = None,
) -> Iterator[Explained]:
    """Yields the explanation of each method, made when it is asked for.

    Args:
        methods (Mapping): methods and arguments of their ``attribute``, by name
        inp (ImagePromptInput): the input
        target (str, sequence of int, Tensor or None): the answer; None: the model
            generates it once, and every method explains the same ids
        processor (ProcessorMixin): the model's processor
        seed (int): seed of :class:`LayerRandomMap`
        gen_args (Mapping, optional): arguments of ``generate``, used without a target.
            Default: None

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as
            :func:`captum_dexar.compare`.
    """
    for name, (method, arguments) in methods.items():
        ours = {name: (reseeded(method, seed), arguments)}
        settings = gen_args if target is None else None
        with warnings.catch_warnings():
            # Zero maps are counted.
            warnings.filterwarnings("ignore", "The map of the whole answer is zero")
            comparison = compare(ours, inp, target, processor, settings)
        result = comparison.results[name]
        target = result.target_ids
        yield Explained(name, method, arguments, result, comparison.seconds[name])


def reseeded(method: Attribution, seed: int) -> Attribution:
    """A copy of a random map with another seed; other methods unchanged."""
    if not isinstance(method, LayerRandomMap):
        return method
    other = copy(method)
    other.seed = seed
    return other
