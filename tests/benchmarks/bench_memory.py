"""Peaks of resident memory, each in a process of its own."""

from tests.benchmarks.memory_probe import GIB, MIB, peak_bytes
from tests.benchmarks.models import HEADS
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes

LIMIT = Limit("<=", 1.05)


def bench_memory_of_generation(ratios: RatioTable, sizes: Sizes) -> None:
    """The plain way does not load the package, whose own size is in the difference."""

    def peak(work: str, layers: int) -> float:
        return (
            peak_bytes(work, num_tokens=sizes.long, grid=sizes.grid, layers=layers)
            / MIB
        )

    plain = [peak("plain", layers) for layers in sizes.layers]
    explained = [peak("explained", layers) for layers in sizes.layers]
    loaded = peak("imported", sizes.layers[-1])
    what = "peak memory, explained over plain generation"
    ratios.add(
        f"{what}, the package imported for both, {sizes.long} tokens",
        explained[-1] / loaded,
        limit=LIMIT,
        note=f"{explained[-1]:.0f} MiB over {loaded:.0f} MiB",
    )
    ratios.add(
        f"{what}, the package imported for one, {sizes.long} tokens",
        explained[-1] / plain[-1],
        limit=LIMIT,
        note=(
            f"{explained[-1]:.0f} MiB over {plain[-1]:.0f} MiB; importing, mostly "
            f"captum and the matplotlib that it loads: {loaded - plain[-1]:.0f} MiB"
        ),
    )
    added = ", ".join(
        f"{layers} layers: {with_maps - without:.0f}"
        for layers, with_maps, without in zip(sizes.layers, explained, plain)
    )
    ratios.add(
        f"peak memory that explaining adds, {sizes.long} tokens",
        explained[-1] - plain[-1],
        unit="MiB",
        note=f"{added}; of them by importing the package {loaded - plain[-1]:.0f}",
    )


def bench_memory_of_long_prompt(ratios: RatioTable, sizes: Sizes) -> None:
    """What eager attention would need is computed: hardly a machine can run it."""
    num_tokens, layers = sizes.answers[0], sizes.layers[-1]
    num_image = sizes.long_grid**2
    peak = peak_bytes(
        "explained",
        num_tokens=num_tokens,
        grid=sizes.long_grid,
        layers=layers,
        num_text=sizes.long_prompt - num_image,
    )
    ratios.add(
        f"peak memory, prompt of {sizes.long_prompt} tokens, explained generation",
        peak / GIB,
        unit="GiB",
        limit=Limit("<", 24),
        note=f"{num_image} image tokens; {num_tokens} tokens generated",
    )
    matrices = layers * HEADS * sizes.long_prompt**2 * 4
    ratios.add(
        "its attention matrices, kept for an eager backward over all layers",
        matrices / GIB,
        unit="GiB",
        note=f"computed: {layers} layers x {HEADS} heads x {sizes.long_prompt}^2 x 4 B",
    )
