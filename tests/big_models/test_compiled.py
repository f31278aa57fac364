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
from torch import nn, Tensor


def wrapped(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def whole_graph(model: Any) -> Any:
    return torch.compile(model, backend="eager", fullgraph=True)


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


def layers_by_regions(model: Any) -> Any:
    """As recommended for large models: the code of one layer serves all of them."""
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager", fullgraph=True, dynamic=True)
    return model


def layers_wrapped(model: Any) -> Any:
    layers = model.model.language_model.layers
    for index, layer in enumerate(layers):
        layers[index] = torch.compile(layer, backend="eager")
    return model


class CompiledMLP(nn.Module):
    """A user's, in whose class the compiled code is."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.mlp = mlp

    @torch.compile(backend="eager")
    def forward(self, hidden: Tensor) -> Tensor:
        return self.mlp(hidden)


def methods_of_a_class(model: Any) -> Any:
    for layer in model.model.language_model.layers:
        layer.mlp = CompiledMLP(layer.mlp).eval()
    return model


def parts_wrapped(model: Any) -> Any:
    for layer in model.model.language_model.layers:
        layer.mlp = torch.compile(layer.mlp, backend="eager")
    return model


COMPILED = (
    wrapped,
    whole_graph,
    in_place,
    its_forward,
    layers_in_place,
    layers_by_regions,
    layers_wrapped,
    parts_wrapped,
    methods_of_a_class,
)


@pytest.mark.parametrize("compiled", COMPILED)
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


def test_methods_compiled_in_a_class_run_uncompiled() -> None:
    torch._dynamo.reset()
    model: Any = methods_of_a_class(tiny_vlm(seed=1))
    ran_as_written = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        ran_as_written.append(not torch.compiler.is_compiling())

    model.model.language_model.layers[1].mlp.mlp.register_forward_hook(note)
    WAYS["given"](LayerDexAR(model))
    assert ran_as_written and all(ran_as_written)


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
