"""Two ways timed alternately, so that the machine's moods meet both alike."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.ratios import Ratio


@dataclass(frozen=True)
class Side:
    """Something to time.

    Attributes:
        run (Callable): called with what ``prepare`` made
        prepare (Callable): is not timed
        warm_up (Callable or None): a smaller run before the timed ones, where a whole
            one would take long
    """

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    warm_up: Callable[[], object] | None = None

    def warm(self) -> None:
        if self.warm_up is not None:
            self.warm_up()
        else:
            self.run(self.prepare())

    def seconds(self) -> float:
        prepared = self.prepare()
        gc.collect()
        start = time.perf_counter()
        self.run(prepared)
        return time.perf_counter() - start


@dataclass(frozen=True)
class Pairs:
    """Seconds of both sides, pair by pair."""

    ours: list[float]
    reference: list[float]

    def ours_over_reference(self) -> Ratio:
        return _ratio(self.ours, self.reference)

    def reference_over_ours(self) -> Ratio:
        return _ratio(self.reference, self.ours)

    def note(self) -> str:
        ours, reference = map(statistics.median, (self.ours, self.reference))
        return (
            f"ours {ours:.3g} s, reference {reference:.3g} s; pairs: {len(self.ours)}"
        )


def _ratio(above: list[float], below: list[float]) -> Ratio:
    pairs = [a / b for a, b in zip(above, below)]
    return Ratio(statistics.median(pairs), min(above) / min(below))


def timed_in_pairs(benchmark: Any, ours: Side, reference: Side, rounds: int) -> Pairs:
    """Times reference, ours, reference, ours ... reference, after one warm-up of each.

    Ours is compared with the mean of the references before and after it: a machine that
    grows slower or faster meets both sides alike.

    Args:
        benchmark: the fixture of pytest-benchmark, which times our side; what its
            ``setup`` does, and so the reference, it does not time
        ours (Side), reference (Side): what is timed
        rounds (int): number of pairs
    """
    reference.warm()
    ours.warm()
    seconds: list[float] = []

    def set_up() -> tuple[tuple[Any], dict[str, Any]]:
        seconds.append(reference.seconds())
        prepared = ours.prepare()
        gc.collect()
        return (prepared,), {}

    benchmark.pedantic(ours.run, setup=set_up, rounds=rounds)
    seconds.append(reference.seconds())
    around = [(before + after) / 2 for before, after in zip(seconds, seconds[1:])]
    return Pairs(list(benchmark.stats.stats.data), around)


def least_seconds(benchmark: Any, sides: list[Side], rounds: int) -> list[float]:
    """The least time of each of several sides, timed in turns: what disturbs a run only
    adds to it.

    The fixture of pytest-benchmark times the last of them.
    """
    for side in sides:
        side.warm()
    *others, last = sides
    seconds: list[list[float]] = [[] for _ in others]

    def set_up() -> tuple[tuple[Any], dict[str, Any]]:
        for side, times in zip(others, seconds):
            times.append(side.seconds())
        prepared = last.prepare()
        gc.collect()
        return (prepared,), {}

    benchmark.pedantic(last.run, setup=set_up, rounds=rounds)
    seconds.append(list(benchmark.stats.stats.data))
    return [min(times) for times in seconds]
