"""Nothing of the user's is changed by a call, whether it succeeds or fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import state_of, untouched, warm
from torch import nn, Tensor

ENGINES = ("closed_form", "autograd")
OPTIONS: dict[str, dict[str, Any]] = {
    "target": {"target": [40, 41]},
    "generation": {"gen_args": {"max_new_tokens": 2}},
    "beams": {"gen_args": {"max_new_tokens": 2, "num_beams": 2}},
    "attention_power": {"target": [40], "attention_power": 1.0},
}


@pytest.fixture(params=["frozen", "trainable"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A model whose gradients and training flags are not as they come."""
    model = warm(tiny_vlm(), prompt_inputs())
    model.requires_grad_(request.param == "trainable")
    weight: Any = model.get_parameter("lm_head.weight")
    weight.grad = torch.ones_like(weight)
    return model


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
@pytest.mark.parametrize("engine", ENGINES)
def test_explaining_an_answer_changes_nothing(
    model: nn.Module, engine: str, options: dict[str, Any]
) -> None:
    inputs = prompt_inputs()
    kept_inputs = {name: value.clone() for name, value in inputs.items()}
    kept_options = repr(options)
    with untouched(model):
        dexar = VLMAttribution(LayerDexAR(model, engine=engine))
        result = dexar.attribute(inputs, **options)
    assert result.token_attr.max() > 0
    assert inputs.keys() == kept_inputs.keys()
    assert all(torch.equal(inputs[name], kept_inputs[name]) for name in inputs)
    assert repr(options) == kept_options


@pytest.mark.parametrize("mode", ["no_grad", "enable_grad"])
@pytest.mark.parametrize("engine", ENGINES)
def test_explaining_a_step_changes_nothing(
    model: nn.Module, engine: str, mode: str
) -> None:
    inputs = prompt_inputs(batch=2)
    pixels = inputs.pop("pixel_values").requires_grad_()
    with getattr(torch, mode)(), untouched(model):
        attr = LayerDexAR(model, engine=engine).attribute(
            pixels, additional_forward_args=(inputs["input_ids"], {})
        )
    assert isinstance(attr, Tensor) and attr.max() > 0
    assert not attr.requires_grad
    assert pixels.requires_grad and pixels.grad is None


class Broken(Exception):
    """Raised by a part of the model in the middle of a pass."""


@contextmanager
def broken(
    part: nn.Module, pass_number: int, error: type[BaseException]
) -> Iterator[None]:
    """Makes a part of the model fail when it runs for the given time."""
    runs = 0

    def fail(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal runs
        runs += 1
        if runs == pass_number:
            raise error("part of the model is broken")

    handle = part.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


PARTS = {
    "before the attention": "layers.1.input_layernorm",
    "after the attention": "layers.1.self_attn",
    "the MLP": "layers.1.mlp",
    "the whole layer": "layers.2",
    "the final norm": "norm",
}


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt], ids=lambda e: e.__name__)
@pytest.mark.parametrize("part", PARTS.values(), ids=list(PARTS))
@pytest.mark.parametrize("engine", ENGINES)
def test_a_pass_that_fails_in_the_middle_changes_nothing(
    engine: str, part: str, error: type[BaseException]
) -> None:
    model: Any = warm(tiny_vlm(), prompt_inputs())
    language_model = model.model.language_model
    dexar = VLMAttribution(LayerDexAR(model, engine=engine))
    dexar.attribute(prompt_inputs(), [40, 41])
    # Autograd takes a pass per token; a layer with hooks is not run again.
    call = 2 if engine == "autograd" else 1
    with broken(language_model.get_submodule(part), call, error), untouched(model):
        with pytest.raises(error, match="broken"):
            dexar.attribute(prompt_inputs(), [40, 41])
    # And it works again, with the same result as a model that never failed.
    fresh = VLMAttribution(LayerDexAR(tiny_vlm(), engine=engine))
    assert torch.equal(
        dexar.attribute(prompt_inputs(), [40, 41]).token_attr,
        fresh.attribute(prompt_inputs(), [40, 41]).token_attr,
    )


GIVEN = {"target": [40, 41]}
GENERATED = {"gen_args": {"max_new_tokens": 3, "do_sample": False}}


@pytest.mark.parametrize(
    ("options", "pass_number"),
    [(GIVEN, 1), (GIVEN, 2), (GENERATED, 1), (GENERATED, 2), (GENERATED, 3)],
    ids=["target-1", "target-2", "generation-1", "generation-2", "generation-3"],
)
def test_a_first_call_that_fails_changes_nothing(
    options: dict[str, Any], pass_number: int
) -> None:
    """In finding the model's parts, in generating, or in filling a cache."""
    model: Any = warm(tiny_vlm(), prompt_inputs())
    part = model.model.language_model.layers[1].mlp
    with broken(part, pass_number, Broken), untouched(model):
        with pytest.raises(Broken):
            VLMAttribution(LayerDexAR(model)).attribute(prompt_inputs(), **options)


def test_a_change_would_be_noticed() -> None:
    """The check above sees what it is there to see."""
    model: Any = warm(tiny_vlm(), prompt_inputs())
    layer = model.model.language_model.layers[0]

    def changed_by(change: Any) -> list[str]:
        before = state_of(model)
        change()
        after = state_of(model)
        return [name for name in after if before.get(name) != after[name]]

    layer_name = "model.language_model.layers.0"
    assert changed_by(lambda: layer.register_forward_hook(print)) == [
        f"hooks of {layer_name}"
    ]
    assert changed_by(lambda: layer.mlp.train()) != []
    assert changed_by(lambda: model.set_attn_implementation("eager")) != []
    assert changed_by(lambda: model.lm_head.weight.requires_grad_(False)) == [
        "parameter lm_head.weight"
    ]
    assert changed_by(lambda: torch.rand(1)) == ["torch RNG"]
