"""Layers that are no plain projections: adapters, wrappers, other kernels."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import VLMAttribution
from captum_dexar.baselines import LayerTokenActivation
from tests.big_models.test_offloaded import EXPLAINING
from tests.big_models.test_quantised import by
from tests.families.cases import CASES
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor

TARGET = [40, 41, 42]
FEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
CPU = torch.device("cpu")


LIBRARY = torch.library.Library("captum_dexar_tests", "DEF")
LIBRARY.define("linear(Tensor inputs, Tensor weight) -> Tensor")
LIBRARY.impl(
    "linear", lambda inputs, weight: inputs.detach() @ weight.detach().T, "CPU"
)


class ForInferenceOnly(nn.Module):
    """A linear layer whose kernel has no backward pass."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = torch.ops.captum_dexar_tests.linear(inputs, self.weight)
        return output


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_an_operation_without_backward_pass_is_refused(engine: str) -> None:
    """The residual has one: torch itself would go on with that part of the gradient."""
    model: Any = tiny_vlm()
    mlp = model.model.language_model.layers[1].mlp
    mlp.down_proj = ForInferenceOnly(mlp.down_proj).eval()
    with untouched(warm(model, prompt_inputs())):
        with pytest.raises(RuntimeError, match="layer 1 .* no backward pass"):
            by(engine, model, 0)


# Adapters.


class LowRank(nn.Module):
    """A linear layer and a product of two small matrices beside it, as of LoRA."""

    def __init__(self, base_layer: nn.Linear, rank: int = 3) -> None:
        super().__init__()
        self.base_layer = base_layer
        outputs, inputs = base_layer.weight.shape
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        nn.init.normal_(self.up.weight, std=0.3)

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.base_layer.weight
        return weight

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.base_layer(inputs) + self.up(self.down(inputs))
        return output

    def merged(self) -> nn.Linear:
        layer = copy.deepcopy(self.base_layer)
        with torch.no_grad():
            layer.weight += self.up.weight @ self.down.weight
        return layer


def with_each(model: nn.Module, change: Callable[[Any], Any], *names: str) -> nn.Module:
    """Replaces the modules of these names, in place."""
    for name, module in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        if own in names and ("language_model" in name or own == "lm_head"):
            setattr(model.get_submodule(parent), own, change(module))
    return model.eval()


ADAPTED = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")


@pytest.mark.parametrize("names", [ADAPTED, (*ADAPTED, "lm_head")], ids=len)
def test_layers_with_adapters(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = with_each(tiny_vlm(seed=1), LowRank, *names)
    inputs, targets = prompt_inputs(1), random_targets(4, 1)
    attr = explained(model, inputs, targets)
    assert_same(attr, explained(model, inputs, targets, engine="autograd"))
    merged = with_each(copy.deepcopy(model), LowRank.merged, *names)
    assert_same(attr, explained(merged, inputs, targets))


def test_token_activation_does_not_read_a_head_with_an_adapter() -> None:
    model = with_each(tiny_vlm(), LowRank, "lm_head")
    with pytest.raises(TypeError, match=r"torch.nn.Linear, got .*\.LowRank"):
        VLMAttribution(LayerTokenActivation(model)).attribute(
            prompt_inputs(), target=TARGET
        )


class Wrapped(nn.Module):
    """A model in another, as peft wraps it: generating runs the inner one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)

    def get_base_model(self) -> nn.Module:
        return self.base_model

    def forward(self, **inputs: Any) -> Any:
        return self.base_model(**inputs)


@pytest.mark.parametrize("way", ["target", "generated", "streamed"])
def test_a_wrapped_model(way: str) -> None:
    (case,) = [case for case in CASES if case.name == "llava"]
    model = case.model(0, "sdpa")
    attr = EXPLAINING[way](Wrapped(model).eval(), case)
    assert relative_error(attr, EXPLAINING[way](model, case)) <= 1e-5
