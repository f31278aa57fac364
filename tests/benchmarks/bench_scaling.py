"""How the time and memory of explaining grow; both should be straight lines."""

from collections.abc import Sequence
from typing import Any

import numpy
from tests.benchmarks.explaining import explaining_on_cache
from tests.benchmarks.memory_probe import MIB, peak_bytes
from tests.benchmarks.models import llava, prefilled, prompt
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.timing import least_seconds, Side

STRAIGHT = Limit(">", 0.99)


def _r_squared(x: Sequence[float], y: Sequence[float]) -> float:
    """Share of the variance that a straight line explains."""
    line = numpy.polyval(numpy.polyfit(x, y, 1), x)
    residual, total = numpy.var(numpy.subtract(y, line)), numpy.var(y)
    return float(1 - residual / total)


def _add_line(
    ratios: RatioTable,
    what: str,
    x: Sequence[int],
    y: Sequence[float],
    unit: str,
    limit: Limit | None = None,
    of: str = "",
) -> None:
    measured = ", ".join(f"{n}: {value:.4g}" for n, value in zip(x, y))
    ratios.add(
        f"straight line of explaining's {what}",
        _r_squared(x, y),
        unit="R^2",
        limit=limit,
        note=f"{measured} {unit}{of}",
    )


def bench_time_in_answer_tokens(
    benchmark: Any, ratios: RatioTable, sizes: Sizes
) -> None:
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    cache = prefilled(model, inputs)
    sides = [explaining_on_cache(model, inputs, n, cache) for n in sizes.answers]
    seconds = least_seconds(benchmark, sides, sizes.repeats)
    _add_line(
        ratios,
        "time in answer tokens",
        sizes.answers,
        seconds,
        "s",
        STRAIGHT,
    )


def bench_memory_in_answer_tokens(ratios: RatioTable, sizes: Sizes) -> None:
    peaks = [
        peak_bytes("explaining", num_tokens=n, grid=sizes.grid, layers=sizes.layers[-1])
        / MIB
        for n in sizes.answers
    ]
    _add_line(
        ratios,
        "peak memory in answer tokens",
        sizes.answers,
        peaks,
        "MiB",
        STRAIGHT,
    )


def bench_time_in_image_tokens(
    benchmark: Any, ratios: RatioTable, sizes: Sizes
) -> None:
    def side(grid: int) -> Side:
        model = llava(grid, sizes.layers[-1])
        return explaining_on_cache(model, prompt(grid), sizes.short)

    seconds = least_seconds(benchmark, [side(g) for g in sizes.grids], sizes.repeats)
    _add_line(
        ratios,
        "time in image tokens",
        [grid**2 for grid in sizes.grids],
        seconds,
        "s",
        STRAIGHT,
        of=f"; {sizes.short} tokens",
    )


def bench_memory_in_image_tokens(ratios: RatioTable, sizes: Sizes) -> None:
    peaks = [
        peak_bytes(
            "explaining", num_tokens=sizes.short, grid=grid, layers=sizes.layers[-1]
        )
        / MIB
        for grid in sizes.grids
    ]
    _add_line(
        ratios,
        "peak memory in image tokens",
        [grid**2 for grid in sizes.grids],
        peaks,
        "MiB",
        STRAIGHT,
        of=f"; {sizes.short} tokens",
    )


def bench_time_in_layers(benchmark: Any, ratios: RatioTable, sizes: Sizes) -> None:
    inputs = prompt(sizes.grid)
    sides = [
        explaining_on_cache(llava(sizes.grid, layers), inputs, sizes.short)
        for layers in sizes.layers
    ]
    seconds = least_seconds(benchmark, sides, sizes.repeats)
    _add_line(
        ratios,
        "time in layers",
        sizes.layers,
        seconds,
        "s",
        of=f"; {sizes.short} tokens",
    )


def bench_time_in_batch(benchmark: Any, ratios: RatioTable, sizes: Sizes) -> None:
    model = llava(sizes.grid, sizes.layers[-1])
    sides = [
        explaining_on_cache(model, prompt(sizes.grid, batch=batch), sizes.short)
        for batch in sizes.batches
    ]
    seconds = least_seconds(benchmark, sides, sizes.repeats)
    _add_line(
        ratios,
        "time in prompts a batch",
        sizes.batches,
        seconds,
        "s",
        of=f"; {sizes.short} tokens",
    )
