"""Copies of a model that are made while it is explained are the user's own model."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.attention_gradients.interception import replaced_forward
from captum_dexar.model.temporary import temporarily, Temporary
from captum_dexar.model.thread_hooks import (
    forward_hooks,
    forward_pre_hooks,
    only_in_this_thread,
)
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import state_of, untouched, warm
from torch import nn, Tensor
from transformers import StoppingCriteria

SEEN = ("hooks", "attributes", "training", "configuration")


class Copying(StoppingCriteria):
    """Copies the model after every token."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.copies: list[Any] = []

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Tensor:
        self.copies.append(copy.deepcopy(self.model))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def visible(model: nn.Module) -> dict[str, Any]:
    """What a copy has to have in common with its original."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    state = state_of(model).items()
    return {name: value for name, value in state if name.startswith(SEEN)} | flags


def changed_logits(model: Any) -> Tensor:
    """With other weights in a decoder layer, so that a layer of another model shows."""
    with torch.no_grad():
        for parameter in model.model.language_model.layers[1].parameters():
            parameter.mul_(1.1)
        logits: Tensor = model(**prompt_inputs()).logits
    return logits


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_between_two_tokens(is_streamed: bool, engine: str) -> None:
    model = warm(tiny_vlm(), prompt_inputs())
    before, copying = visible(model), Copying(model)
    gen_args = {
        "max_new_tokens": 2,
        "do_sample": False,
        "eos_token_id": None,
        "stopping_criteria": [copying],
    }
    dexar = VLMAttribution(LayerDexAR(model, engine=engine))
    with untouched(model):
        if is_streamed:
            list(dexar.stream(prompt_inputs(), gen_args=gen_args))
        else:
            dexar.attribute(prompt_inputs(), gen_args=gen_args)
    assert len(copying.copies) == 2
    expected = changed_logits(tiny_vlm())
    for made in copying.copies:
        assert visible(made) == before
        assert torch.equal(changed_logits(made), expected)


COPYING: list[Any] = []


def copy_once(module: nn.Module, *unused: Any) -> None:
    if COPYING and COPYING[0] is not None:
        model, COPYING[0] = COPYING[0], None
        COPYING.append(copy.deepcopy(model))


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
@pytest.mark.parametrize("part", ["layers.1.mlp", "layers.2", "norm"])
def test_in_the_middle_of_a_pass(part: str, engine: str) -> None:
    model: Any = warm(tiny_vlm(), prompt_inputs())
    module = model.model.language_model.get_submodule(part)
    handle = module.register_forward_hook(copy_once)
    dexar = VLMAttribution(LayerDexAR(model, engine=engine))
    dexar.attribute(prompt_inputs(), [40, 41])
    before = visible(model)
    COPYING[:] = [model]
    with untouched(model):
        dexar.attribute(prompt_inputs(), [40, 41])
    _, made = COPYING
    COPYING.clear()
    handle.remove()
    assert visible(made) == before
    assert torch.equal(changed_logits(made), changed_logits(tiny_vlm()))


def pickled(module: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(module))


def saved(module: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def hook(*unused: Any) -> None:
    """The user's."""


def captums_hook(module: nn.Module, args: Any, output: Any) -> None:
    pass


# Other libraries' hooks are there to stay.
captums_hook.__module__ = "captum.attr"


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickled, saved])
def test_everything_that_this_package_can_put_on_a_module(
    copier: Callable[[nn.Module], Any],
) -> None:
    """Whole models of transformers can't be pickled once they have run."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh()).eval()
    linear = module[0]
    linear.register_forward_hook(hook, with_kwargs=True)
    before = visible(module)
    one = torch.ones(1, 2)
    expected = module(one)
    with (
        replaced_forward({linear: lambda tensor: tensor, module: lambda tensor: one}),
        forward_hooks({linear: print, module: print}, with_kwargs=True),
        forward_pre_hooks({linear: print}),
        only_in_this_thread(module.modules()),
    ):
        handle = linear.register_forward_hook(captums_hook)
        assert visible(module) != before
        made = copier(module)
        handle.remove()
        if copier is not copy.copy:
            assert visible(made) == before
            assert torch.equal(made(one), expected)
        assert visible(copier(linear)) == visible(nn.Linear(2, 2).eval()) | {
            "hooks of ": before["hooks of 0"]
        }
    assert visible(module) == before


class _WithState(nn.Linear):
    """A module that says itself what a copy gets."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "note": "copied"}


class _Forward(Temporary):
    def __init__(self, replaces: Any = None) -> None:
        self.replaces = replaces


def test_what_a_module_says_itself_and_what_the_user_put_there_stays() -> None:
    module: Any = _WithState(2, 2)
    own = torch.nn.functional.relu
    vars(module)["forward"] = _Forward(own)
    vars(module)["other"] = _Forward()
    with temporarily(module), temporarily(module):
        made = copy.deepcopy(module)
        shallow = copy.copy(module)
    assert made.note == "copied" and vars(made)["forward"] is own
    for copied in (made, shallow):
        assert {"other", "__getstate__"}.isdisjoint(vars(copied))
    assert "__getstate__" not in vars(module)
    assert torch.equal(made.weight, module.weight) and shallow.weight is module.weight
