"""Eight prompts explained together, over one after the other, with two threads."""

from typing import Any

from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.shapes import load_vlm, make_scene
from tests.benchmarks.machine import threads
from tests.benchmarks.models import answer, generating, llava, prompt
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.timing import Side, timed_in_pairs

BATCH = 8
THREADS = 2
LIMIT = Limit(">=", 2)


def _add_throughput(
    benchmark: Any,
    ratios: RatioTable,
    method: VLMAttribution,
    inps: list[Any],
    rounds: int,
    *,
    what: str,
    note: str,
    limit: Limit | None = None,
    targets: list[Any] | None = None,
    **arguments: Any,
) -> None:
    def together(number: int) -> object:
        some = None if targets is None else targets[:number]
        return method.attribute(
            inps[:number], target=some, batch_size=BATCH, **arguments
        )

    def one_by_one(number: int) -> object:
        given = [None] * number if targets is None else targets
        return [
            method.attribute(inp, target=target, **arguments)
            for inp, target in zip(inps[:number], given)
        ]

    with threads(THREADS):
        pairs = timed_in_pairs(
            benchmark,
            Side(lambda _: together(BATCH), warm_up=lambda: together(2)),
            Side(lambda _: one_by_one(BATCH), warm_up=lambda: one_by_one(1)),
            rounds,
        )
    ratios.add_times(
        f"throughput of a batch of {BATCH} over singles, {what}",
        pairs.reference_over_ours(),
        limit=limit,
        note=f"{note}, {THREADS} threads; {pairs.note()}",
    )


def bench_batch_generating(benchmark: Any, ratios: RatioTable, sizes: Sizes) -> None:
    model = llava(sizes.batch_grid, sizes.layers[-1])
    _add_throughput(
        benchmark,
        ratios,
        VLMAttribution(LayerDexAR(model)),
        [prompt(sizes.batch_grid, seed=seed) for seed in range(BATCH)],
        sizes.batch_pairs,
        what="generating",
        note=f"{sizes.in_batch} tokens, {sizes.batch_grid**2} image tokens",
        limit=LIMIT,
        gen_args=generating(sizes.in_batch),
    )


def bench_batch_teacher_forced(
    benchmark: Any, ratios: RatioTable, sizes: Sizes
) -> None:
    model = llava(sizes.grid, sizes.layers[-1])
    _add_throughput(
        benchmark,
        ratios,
        VLMAttribution(LayerDexAR(model)),
        [prompt(sizes.grid, seed=seed) for seed in range(BATCH)],
        sizes.batch_pairs,
        what="teacher-forced",
        note=f"{sizes.short} tokens, {sizes.grid**2} image tokens",
        targets=[answer(sizes.short)[0]] * BATCH,
    )


def bench_batch_of_bundled_model(
    benchmark: Any, ratios: RatioTable, sizes: Sizes
) -> None:
    model, processor = load_vlm()
    images = [make_scene(seed).image for seed in range(BATCH)]
    _add_throughput(
        benchmark,
        ratios,
        VLMAttribution(LayerDexAR(model), processor),
        [ImagePromptInput(image, "Describe the image.", processor) for image in images],
        sizes.pairs,
        what="bundled model generating",
        note="144 image tokens",
        limit=LIMIT,
    )
