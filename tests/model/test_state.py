"""Which states of a model are refused, and which have no effect on an explanation."""

import copy
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.model.training_mode import in_training
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import nn, Tensor
from torch.nn.utils import parametrizations, parametrize

WEIGHTS = "model.language_model.layers.1.mlp.down_proj"


class Symmetric(nn.Module):
    """A parametrisation of a user's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.5


class NoisyLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        noise = torch.randn_like(input) if self.training else 0.0
        return super().forward(input + noise)


class AlwaysTraining(nn.Linear):
    def train(self, mode: bool = True) -> Any:
        return super().train(True)


def weights(model: nn.Module) -> Any:
    return model.get_submodule(WEIGHTS)


def old_spectral_norm(module: nn.Module) -> None:
    torch.nn.utils.spectral_norm(module)
    module.train()


def turned(kind: type[nn.Module]) -> Any:
    def turn(module: nn.Module) -> None:
        module.__class__ = kind
        module.train()

    return turn


def patched(module: Any) -> None:
    def forward(input: Tensor) -> Tensor:
        return nn.functional.dropout(input @ module.weight.T, 0.5, module.training)

    module.forward = forward
    module.train()


HARMLESS = {
    "weight norm": parametrizations.weight_norm,
    "another parametrisation": lambda module: parametrize.register_parametrization(
        module, "weight", Symmetric()
    ),
    "the layer itself": lambda module: module.train(),
    "a class that is always in it": turned(AlwaysTraining),
}
HARMFUL = {
    "spectral norm": lambda module: parametrizations.spectral_norm(module).train(),
    "spectral norm as a hook": old_spectral_norm,
    "dropout": lambda module: module.add_module("more", nn.Dropout(0.5)),
    "batch norm": lambda module: module.add_module("more", nn.BatchNorm1d(48)),
    "a class of the user's": turned(NoisyLinear),
    "a forward of the user's": patched,
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=list(HARMLESS))
def test_training_mode_without_effect(change: Any) -> None:
    model = tiny_vlm()
    change(weights(model))
    assert any(module.training for module in model.modules())
    in_eval = copy.deepcopy(model).eval()
    results = [
        VLMAttribution(LayerDexAR(one)).attribute(prompt_inputs(), [40, 41])
        for one in (model, in_eval)
    ]
    assert torch.equal(results[0].token_attr, results[1].token_attr)
    assert bool(results[0].token_attr.any())
    assert any(module.training for module in model.modules())


@pytest.mark.parametrize("change", HARMFUL.values(), ids=list(HARMFUL))
def test_training_mode_with_an_effect(change: Any) -> None:
    model = tiny_vlm()
    change(weights(model))
    dexar = VLMAttribution(LayerDexAR(model))
    with pytest.raises(RuntimeError, match=rf"in training mode.*{WEIGHTS}.*eval\(\)"):
        dexar.attribute(prompt_inputs(), [40, 41])
    model.eval()
    assert in_training(model) is None
    dexar.attribute(prompt_inputs(), [40, 41])


def test_a_whole_model_in_training_mode() -> None:
    model = tiny_vlm().train()
    with pytest.raises(
        RuntimeError, match="LlavaForConditionalGeneration, and .* more"
    ):
        VLMAttribution(LayerDexAR(model)).attribute(prompt_inputs(), [40, 41])


@pytest.mark.parametrize("part", ["", "model.language_model", "model.vision_tower"])
@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_passes_that_return_tuples(engine: str, part: str) -> None:
    model: Any = tiny_vlm()
    dexar = VLMAttribution(LayerDexAR(model, engine=engine))
    config: Any = model.get_submodule(part).config
    config.return_dict = False
    message = f"{part} ?.*has return_dict=False"
    with pytest.raises(RuntimeError, match=message):
        dexar.attribute(prompt_inputs(), [40, 41])
    with pytest.raises(RuntimeError, match=message):
        dexar.attribute(prompt_inputs(), gen_args={"max_new_tokens": 2})
    with pytest.raises(RuntimeError, match=message):
        list(dexar.stream(prompt_inputs()))
    config.return_dict = True
    dexar.attribute(prompt_inputs(), [40, 41])
