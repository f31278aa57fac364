"""A given answer explained, over the ways that differentiate eager attention."""

import copy
import time
from typing import Any

import pytest
from captum_dexar import LayerDexAR, VLMAttribution
from tests.benchmarks.eager_replay import replayed, replayed_on
from tests.benchmarks.explaining import explained_while_generating, explaining_on_cache
from tests.benchmarks.models import answer, llava, prefilled, prompt
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.timing import Pairs, Side, timed_in_pairs
from tests.benchmarks.token_maps import relative_error

TOLERANCE = 1e-4


@pytest.fixture(name="model")
def _model(sizes: Sizes) -> Any:
    return llava(sizes.grid, sizes.layers[-1])


@pytest.fixture(name="inputs")
def _inputs(sizes: Sizes) -> Any:
    return prompt(sizes.grid)


def _teacher_forced(model: Any, inputs: Any, num_tokens: int, engine: str) -> Side:
    method = VLMAttribution(LayerDexAR(model, engine=engine))
    ids = answer(num_tokens)[0]
    return Side(
        run=lambda _: method.attribute(inputs, target=ids),
        warm_up=lambda: method.attribute(inputs, target=ids[:1]),
    )


def bench_over_growing_prefix(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, model: Any, inputs: Any
) -> None:
    """One pair: the reference takes minutes."""
    pairs = timed_in_pairs(
        benchmark,
        _teacher_forced(model, inputs, sizes.short, "closed_form"),
        _teacher_forced(model, inputs, sizes.short, "autograd"),
        rounds=1,
    )
    ratios.add_times(
        f"eager autograd, growing prefix, over ours, {sizes.short} tokens",
        pairs.reference_over_ours(),
        limit=Limit(">=", 60),
        note=f"prompt included; {pairs.note()}",
    )


def bench_over_replay(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, model: Any, inputs: Any
) -> None:
    ids = answer(sizes.short)
    pairs = timed_in_pairs(
        benchmark,
        _teacher_forced(model, inputs, sizes.short, "closed_form"),
        Side(
            run=lambda _: replayed(model, inputs, ids),
            warm_up=lambda: replayed(model, inputs, ids[:, :1]),
        ),
        sizes.long_pairs,
    )
    ratios.add_times(
        f"eager replay on a cache over ours, {sizes.short} tokens",
        pairs.reference_over_ours(),
        limit=Limit(">=", 2.5),
        note=f"one backward pass per layer and token; prompt included; {pairs.note()}",
    )


@pytest.mark.parametrize("length", ["short", "long"])
def bench_over_replay_after_generating(
    ratios: RatioTable, sizes: Sizes, model: Any, inputs: Any, length: str
) -> None:
    """What generating recorded is explained, and the same answer is replayed."""
    num_tokens = getattr(sizes, length)
    cache = prefilled(model, inputs)
    ours, reference = [], []
    for _ in range(sizes.long_pairs + 1):
        answered, seconds = explained_while_generating(model, inputs, num_tokens)
        ours.append(seconds)
        fresh = copy.deepcopy(cache)
        start = time.perf_counter()
        replay = replayed_on(model, inputs, answered.ids, fresh)
        reference.append(time.perf_counter() - start)
    assert answered.explained is not None
    error = relative_error(replay, answered.explained.token_attr[0])
    # A reference that computes something else is worth nothing.
    assert error <= TOLERANCE, error
    # The first of each warmed up.
    pairs = Pairs(ours[1:], reference[1:])
    ratios.add_times(
        f"eager replay over ours after generating, {num_tokens} tokens",
        pairs.reference_over_ours(),
        limit=Limit(">=", 15),
        note=(
            "prompt not included, nor what is recorded while generating; "
            f"{pairs.note()}; maps differ by {error:.1g}"
        ),
    )


@pytest.mark.parametrize("length", ["short", "long"])
def bench_over_replay_on_a_cache(
    benchmark: Any,
    ratios: RatioTable,
    sizes: Sizes,
    model: Any,
    inputs: Any,
    length: str,
) -> None:
    """Both run a given answer on the cache of its prompt."""
    num_tokens = getattr(sizes, length)
    ids = answer(num_tokens)
    cache = prefilled(model, inputs)
    ours = explaining_on_cache(model, inputs, num_tokens, cache)
    maps = ours.run(ours.prepare()).token_attr[0]
    error = relative_error(replayed_on(model, inputs, ids, ours.prepare()), maps)
    assert error <= TOLERANCE, error
    pairs = timed_in_pairs(
        benchmark,
        ours,
        Side(
            run=lambda fresh: replayed_on(model, inputs, ids, fresh),
            prepare=lambda: copy.deepcopy(cache),
            warm_up=lambda: None,
        ),
        sizes.long_pairs,
    )
    ratios.add_times(
        f"eager replay over ours, a given answer on a cache, {num_tokens} tokens",
        pairs.reference_over_ours(),
        note=f"prompt not included; {pairs.note()}; maps differ by {error:.1g}",
    )
