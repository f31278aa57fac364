"""Where the time of explaining goes."""

from tests.benchmarks.explaining import explaining_on_cache
from tests.benchmarks.models import llava, prompt
from tests.benchmarks.ratios import RatioTable
from tests.benchmarks.sizes import Sizes
from torch.profiler import profile, ProfilerActivity

NUM_OPERATORS = 10


def bench_profile(ratios: RatioTable, sizes: Sizes) -> None:
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    side = explaining_on_cache(model, inputs, sizes.long)
    side.warm()
    cache = side.prepare()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        side.run(cache)
    operators = sorted(
        profiled.key_averages(), key=lambda row: row.self_cpu_time_total, reverse=True
    )
    total = sum(row.self_cpu_time_total for row in operators)
    lines = ["| operator | self CPU time | calls |", "|---|---|---|"]
    lines += [
        f"| {row.key} | {100 * row.self_cpu_time_total / total:.1f} % | {row.count} |"
        for row in operators[:NUM_OPERATORS]
    ]
    ratios.add_section(
        f"Where the time of explaining {sizes.long} tokens goes", "\n".join(lines)
    )
