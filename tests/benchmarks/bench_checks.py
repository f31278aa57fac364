"""What the comparisons of assumptions with what happened cost."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import captum_dexar.vlm_attribution as vlm_attribution
import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.attention_gradients import (
    contraction,
    layer_replay,
    local_graphs,
    online,
    step_recorder,
)
from captum_dexar.decoding import streaming
from captum_dexar.methods import base, layer_dexar
from captum_dexar.model import hook_effects
from captum_dexar.model.logit_lens import LogitLens
from tests.benchmarks.models import generating, llava, prompt
from tests.benchmarks.ratios import Limit, RatioTable
from tests.benchmarks.sizes import Sizes

LIMIT = Limit("<=", 0.01)
CHECKS: list[tuple[Any, str]] = [
    (layer_replay, "_some_features"),
    (layer_replay, "mismatch"),
    (layer_replay, "whole_mismatches"),
    (layer_replay, "are_same"),
    (contraction, "check_keys"),
    (contraction, "check_cross_keys"),
    (contraction, "check_probabilities"),
    (online, "users_change"),
    (local_graphs, "users_change"),
    (step_recorder, "users_hook"),
    (layer_dexar, "users_change"),
    (layer_dexar, "check_positions_are_apart"),
    (base, "users_change"),
    (hook_effects, "users_hook"),
    (streaming, "check_log_probs"),
    (vlm_attribution, "check_log_probs"),
    (LogitLens, "check"),
]


class _Stopwatch:
    """The seconds that some functions take, however they are nested."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.is_running = False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.is_running:
                return function(*args, **kwargs)
            self.is_running = True
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self.is_running = False

        return run


@pytest.mark.parametrize("way", ["generated", "streamed", "given"])
def bench_checks(ratios: RatioTable, sizes: Sizes, way: str) -> None:
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    method = VLMAttribution(LayerDexAR(model))
    arguments = generating(sizes.short)

    def explain() -> None:
        if way == "streamed":
            list(method.stream(inputs, arguments))
        elif way == "given":
            target = torch.arange(10, 10 + sizes.short)
            method.attribute(inputs, target=target)
        else:
            method.attribute(inputs, gen_args=arguments)

    explain()
    watch = _Stopwatch()
    with ExitStack() as stack:
        for place, name in CHECKS:
            timed = watch.timed(getattr(place, name))
            stack.enter_context(patch.object(place, name, timed))
        start = time.perf_counter()
        for _ in range(sizes.pairs):
            explain()
        whole = time.perf_counter() - start
    ratios.add(
        f"part of explaining that its checks take, {sizes.short} tokens, {way}",
        watch.seconds / whole,
        limit=LIMIT,
        note=f"{watch.seconds:.3g} s of {whole:.3g} s",
    )
