"""A compiled model, or one with compiled parts, is explained as it was written.

Compiled code is not made anew for hooks: once it has run, it passes by them.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR
from tests.helpers.literal import WAYS
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:The map of the whole answer is zero")


def wrapped(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def its_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def layers_in_place(model: Any) -> Any:
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager")
    return model


def layers_wrapped(model: Any) -> Any:
    layers = model.model.language_model.layers
    for index, layer in enumerate(layers):
        layers[index] = torch.compile(layer, backend="eager")
    return model


def parts_wrapped(model: Any) -> Any:
    for layer in model.model.language_model.layers:
        layer.mlp = torch.compile(layer.mlp, backend="eager")
    return model


COMPILED = (wrapped, in_place, its_forward, layers_in_place, layers_wrapped)


@pytest.mark.parametrize("compiled", [*COMPILED, parts_wrapped])
def test_compiled_models(compiled: Callable[[nn.Module], nn.Module]) -> None:
    torch._dynamo.reset()
    model, plain = compiled(tiny_vlm(seed=1)), tiny_vlm(seed=1)
    for way, explain in WAYS.items():
        expected = explain(LayerDexAR(plain))
        for one, other in zip(explain(LayerDexAR(model)), expected):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_compiled_part_that_has_run_before() -> None:
    """Its code is there already when hooks come."""
    torch._dynamo.reset()
    model = layers_in_place(tiny_vlm(seed=1))
    with torch.no_grad():
        model(**prompt_inputs(1))
    expected = WAYS["given"](LayerDexAR(tiny_vlm(seed=1)))
    for one, other in zip(WAYS["given"](LayerDexAR(model)), expected):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_compiled_code_runs_again_afterwards() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model: Any = tiny_vlm(seed=1)
    mlp = model.model.language_model.layers[1].mlp
    mlp.compile(backend=counter)
    for explain in WAYS.values():
        explain(LayerDexAR(model))
    assert counter.frame_count == 0
    mlp(torch.randn(1, 2, 48))
    assert counter.frame_count == 1


def test_a_compiled_model_with_an_adapter_around_it() -> None:
    """Only what torch.compile has wrapped is unwrapped, not the adapter."""
    peft = pytest.importorskip("peft", reason="it is what makes the adapter")
    torch._dynamo.reset()
    config = peft.LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_vlm(seed=1), config).eval()
    for way in ("given", "streamed"):
        expected = WAYS[way](LayerDexAR(model))
        for one, other in zip(WAYS[way](LayerDexAR(wrapped(model))), expected):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
