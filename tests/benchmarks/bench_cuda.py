"""Explained generation of 7 B models on a GPU, over plain generation."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.benchmarks.cuda_models import SHAPES
from tests.benchmarks.models import generating
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.timing import Side, timed_in_pairs
from transformers.utils import is_flash_attn_2_available

LIMIT = Limit("<=", 1.03)
DTYPE = torch.bfloat16


def _reason_not_to(attention: str) -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        return "flash-attn is not installed"
    return None


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("name", SHAPES)
def bench_cuda(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, name: str, attention: str
) -> None:
    what = f"explained over plain generation, {name}, {attention}, {sizes.long} tokens"
    reason = _reason_not_to(attention)
    if reason is not None:
        ratios.not_measured(what, reason, LIMIT)
        pytest.skip(reason)
    gc.collect()
    torch.cuda.empty_cache()
    shape = SHAPES[name]()
    model = shape.build(attention, "cuda", DTYPE)
    inputs = shape.inputs("cuda", DTYPE)
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.long)
    pairs = timed_in_pairs(
        benchmark,
        _finished(lambda: method.attribute(inputs, gen_args=arguments)),
        _finished(lambda: model.generate(**inputs, **arguments)),
        sizes.pairs,
    )
    ratios.add_times(
        what,
        pairs.ours_over_reference(),
        limit=LIMIT,
        note=f"random weights, bfloat16; {pairs.note()}",
    )


def _finished(run: Callable[[], object]) -> Side:
    """Kernels run on after the call that started them has returned."""

    def run_and_wait(_: Any) -> None:
        run()
        torch.cuda.synchronize()

    return Side(run_and_wait)
