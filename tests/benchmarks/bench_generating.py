"""An answer with its explanation, over the answer alone."""

from typing import Any

import pytest
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.decoding.growing_cache import growing_cache
from tests.benchmarks.floor import bare_streaming
from tests.benchmarks.models import answer, generating, llava, prompt
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.timing import Side, timed_in_pairs

LIMIT = Limit("<=", 1.09)
# By the number of tokens that are explained at a time.
LIMITS_OF_GROUPS = {4: Limit("<=", 1.2), 8: Limit("<=", 1.12)}


def _plain(model: Any, inputs: Any, num_tokens: int) -> Side:
    return Side(lambda _: model.generate(**inputs, **generating(num_tokens)))


@pytest.mark.parametrize("length", ["short", "long"])
def bench_explained_generation(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, length: str
) -> None:
    num_tokens = getattr(sizes, length)
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    method = VLMAttribution(LayerDexAR(model))
    pairs = timed_in_pairs(
        benchmark,
        Side(lambda _: method.attribute(inputs, gen_args=generating(num_tokens))),
        _plain(model, inputs, num_tokens),
        sizes.pairs if length == "short" else sizes.long_pairs,
    )
    ratios.add_times(
        f"explained over plain generation, {num_tokens} tokens",
        pairs.ours_over_reference(),
        limit=LIMIT,
        note=pairs.note(),
    )


@pytest.mark.parametrize("length", ["short", "long"])
def bench_explained_generation_on_the_same_cache(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, length: str
) -> None:
    """Without what the package's own cache saves, which plain generating could too."""
    num_tokens = getattr(sizes, length)
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(num_tokens)
    pairs = timed_in_pairs(
        benchmark,
        Side(lambda _: method.attribute(inputs, gen_args=arguments)),
        Side(
            lambda _: model.generate(
                **inputs, **arguments, past_key_values=growing_cache(model.config)
            )
        ),
        sizes.pairs if length == "short" else sizes.long_pairs,
    )
    ratios.add_times(
        f"explained over plain generation, both on our cache, {num_tokens} tokens",
        pairs.ours_over_reference(),
        note=pairs.note(),
    )


@pytest.mark.parametrize("name, value", [("attention_power", 0.5), ("rivals", 4)])
def bench_generation_with_an_extension(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, name: str, value: float
) -> None:
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.short)
    extension: dict[str, Any] = {name: value}
    pairs = timed_in_pairs(
        benchmark,
        Side(lambda _: method.attribute(inputs, gen_args=arguments, **extension)),
        _plain(model, inputs, sizes.short),
        sizes.pairs,
    )
    ratios.add_times(
        f"explained with {name}={value} over plain generation, {sizes.short} tokens",
        pairs.ours_over_reference(),
        note=pairs.note(),
    )


def bench_streamed_generation(benchmark: Any, ratios: RatioTable, sizes: Sizes) -> None:
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.short)
    pairs = timed_in_pairs(
        benchmark,
        Side(lambda _: list(method.stream(inputs, gen_args=arguments))),
        _plain(model, inputs, sizes.short),
        sizes.pairs,
    )
    ratios.add_times(
        f"streamed over plain generation, {sizes.short} tokens",
        pairs.ours_over_reference(),
        note=pairs.note(),
    )


@pytest.mark.parametrize("every", LIMITS_OF_GROUPS)
def bench_streamed_several_at_a_time(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, every: int
) -> None:
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.short)
    pairs = timed_in_pairs(
        benchmark,
        Side(lambda _: list(method.stream(inputs, gen_args=arguments, every=every))),
        _plain(model, inputs, sizes.short),
        sizes.pairs,
    )
    ratios.add_times(
        f"streamed over plain generation, {every} at a time, {sizes.short} tokens",
        pairs.ours_over_reference(),
        limit=LIMITS_OF_GROUPS[every],
        note=pairs.note(),
    )


def bench_streamed_over_floor(benchmark: Any, ratios: RatioTable, sizes: Sizes) -> None:
    """The floor: each token decoded with a graph, and the bare local backward."""
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    ids = answer(sizes.short)
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.short)
    pairs = timed_in_pairs(
        benchmark,
        Side(lambda _: list(method.stream(inputs, gen_args=arguments))),
        Side(lambda _: bare_streaming(model, inputs, ids)),
        sizes.pairs,
    )
    ratios.add_times(
        f"streamed generation over its floor, {sizes.short} tokens",
        pairs.ours_over_reference(),
        limit=Limit("<=", 1.25),
        note=(
            "floor: the prompt, then for each token one forward of one position and "
            f"the bare local backwards; {pairs.note()}"
        ),
    )
