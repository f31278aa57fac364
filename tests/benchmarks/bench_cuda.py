"""Explained and streamed generation of 7 B models on a GPU, over plain generation."""

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
# By the number of tokens that are explained at a time.
LIMITS_OF_STREAMS = {1: None, 4: Limit("<=", 1.2), 8: Limit("<=", 1.12)}
DTYPE = torch.bfloat16


def _reason_not_to(attention: str) -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        return "flash-attn is not installed"
    return None


def _on_the_device(name: str, attention: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model of random weights and its inputs, after what was there is gone."""
    gc.collect()
    torch.cuda.empty_cache()
    shape = SHAPES[name]()
    return shape.build(attention, "cuda", DTYPE), shape.inputs("cuda", DTYPE)


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
    model, inputs = _on_the_device(name, attention)
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


@pytest.mark.parametrize("name", SHAPES)
def bench_cuda_rivals(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, name: str
) -> None:
    what = f"explained with rivals=4 over plain generation, {name}"
    reason = _reason_not_to("sdpa")
    if reason is not None:
        ratios.not_measured(what, reason)
        pytest.skip(reason)
    model, inputs = _on_the_device(name, "sdpa")
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.short)
    pairs = timed_in_pairs(
        benchmark,
        _finished(lambda: method.attribute(inputs, gen_args=arguments, rivals=4)),
        _finished(lambda: model.generate(**inputs, **arguments)),
        sizes.pairs,
    )
    ratios.add_times(
        what,
        pairs.ours_over_reference(),
        note=f"random weights, bfloat16; {pairs.note()}",
    )


@pytest.mark.parametrize("every", LIMITS_OF_STREAMS)
@pytest.mark.parametrize("name", SHAPES)
def bench_cuda_streams(
    benchmark: Any, ratios: RatioTable, sizes: Sizes, name: str, every: int
) -> None:
    limit = LIMITS_OF_STREAMS[every]
    what = f"streamed over plain generation, {name}, {every} at a time"
    reason = _reason_not_to("sdpa")
    if reason is not None:
        ratios.not_measured(what, reason, limit)
        pytest.skip(reason)
    model, inputs = _on_the_device(name, "sdpa")
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.short)
    pairs = timed_in_pairs(
        benchmark,
        _finished(lambda: list(method.stream(inputs, gen_args=arguments, every=every))),
        _finished(lambda: model.generate(**inputs, **arguments)),
        sizes.pairs,
    )
    ratios.add_times(
        what,
        pairs.ours_over_reference(),
        limit=limit,
        note=f"random weights, bfloat16; {pairs.note()}",
    )


def _finished(run: Callable[[], object]) -> Side:
    """Kernels run on after the call that started them has returned."""

    def run_and_wait(_: Any) -> None:
        run()
        torch.cuda.synchronize()

    return Side(run_and_wait)
