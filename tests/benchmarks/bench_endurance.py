"""Thousands of explanations of many kinds: nothing of them is kept."""

import gc
import random
from collections.abc import Callable
from typing import Any

import psutil
from captum.attr import Saliency
from captum_dexar import (
    compare,
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMForward,
)
from captum_dexar.baselines import LayerAttention
from captum_dexar.shapes import load_vlm, make_scene
from tests.benchmarks.memory_probe import MIB
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.helpers.untouched import untouched
from torch import nn

LIMIT = Limit("<=", 1.03)
# The allocator's pools and caches of torch have their size by then.
WARM_UP = 0.2
QUESTIONS = ("Describe the image.", "how many objects ?", "what colour is the star ?")


def bench_endurance(ratios: RatioTable, sizes: Sizes) -> None:
    """Resident memory and open files after the warm-up, and at the end."""
    model, processor = load_vlm()
    explain = _every_way(model, processor)
    process, number = psutil.Process(), sizes.explanations
    warmed = int(WARM_UP * number)
    resident: list[float] = []
    files = 0
    explain(0)
    with untouched(model):
        for index in range(number):
            explain(index)
            if index == warmed:
                files = process.num_fds()
            if index >= warmed and index % 10 == 0:
                gc.collect()
                resident.append(process.memory_info().rss / MIB)
    tenth = max(len(resident) // 10, 1)
    first, last = (sum(part) / tenth for part in (resident[:tenth], resident[-tenth:]))
    ratios.add(
        f"resident memory after {number} explanations over after {warmed}",
        last / first,
        limit=LIMIT,
        note=f"{last:.0f} MiB over {first:.0f} MiB, means of a tenth of the run",
    )
    ratios.add(
        f"open files after {number} explanations over after {warmed}",
        process.num_fds() / files,
        limit=Limit("<=", 1.0),
        note=f"{process.num_fds()}; hooks, attributes and weights as before",
    )


def _every_way(model: nn.Module, processor: Any) -> Callable[[int], None]:
    """Explains the image of an index in one of many ways, at a size of its own."""
    dexar = VLMAttribution(LayerDexAR(model), processor)
    saliency = VLMAttribution(Saliency(VLMForward(model)), processor)
    attention = VLMAttribution(LayerAttention(model), processor)
    methods = {"a": LayerDexAR(model), "b": (LayerDexAR(model), {"top_k": 2})}

    def inp(index: int) -> ImagePromptInput:
        rng = random.Random(index)
        image = make_scene(index).image.resize(
            (rng.randint(20, 400), rng.randint(20, 400))
        )
        return ImagePromptInput(image, rng.choice(QUESTIONS), processor, model)

    def explain(index: int) -> None:
        few = {"max_new_tokens": 1 + index % 25}
        one: Callable[[], object] = (
            lambda: dexar.attribute(inp(index)),
            lambda: dexar.attribute(inp(index), target="a red circle"),
            lambda: dexar.attribute([inp(index), inp(index + 1)], gen_args=few),
            lambda: list(dexar.stream(inp(index), gen_args=few, every=1 + index % 4)),
            lambda: next(dexar.stream(inp(index), gen_args=few)),
            lambda: dexar.attribute(inp(index), "a red ring", contrast="a blue ring"),
            lambda: compare(methods, inp(index), "a red circle", processor),
            lambda: saliency.attribute(inp(index), target="a red circle"),
            lambda: attention.attribute(inp(index), gen_args=few).to_html(),
        )[index % 9]
        one()

    return explain
