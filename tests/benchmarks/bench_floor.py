"""Explaining, over the passes that it can't do without."""

import copy
from typing import Any

import pytest
from tests.benchmarks.explaining import explaining_on_cache
from tests.benchmarks.floor import bare_passes, maps_of_floor
from tests.benchmarks.models import answer, llava, predicting, prefilled, prompt
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.timing import Side, timed_in_pairs
from tests.benchmarks.token_maps import relative_error

TOLERANCE = 1e-4


@pytest.mark.parametrize("length", ["short", "long"])
def bench_over_floor(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, length: str
) -> None:
    num_tokens = getattr(sizes, length)
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    ids = answer(num_tokens)
    fed = predicting(inputs, ids)
    cache = prefilled(model, inputs)
    ours = explaining_on_cache(model, inputs, num_tokens, cache)
    maps = ours.run(ours.prepare()).token_attr[0]
    error = relative_error(maps_of_floor(model, inputs, ids, ours.prepare()), maps)
    assert error <= TOLERANCE, error
    pairs = timed_in_pairs(
        benchmark,
        ours,
        Side(
            run=lambda fresh: bare_passes(model, fed, ids, fresh, with_logits=True),
            prepare=lambda: copy.deepcopy(cache),
        ),
        2 * sizes.pairs,
    )
    ratios.add_times(
        f"explaining after generating over its floor, {num_tokens} tokens",
        pairs.ours_over_reference(),
        limit=Limit("<=", 1.25),
        note=(
            "floor: one forward on the cache, and the bare local backwards; "
            f"{pairs.note()}"
        ),
    )
