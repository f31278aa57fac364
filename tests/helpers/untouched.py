"""Everything of the user's that a call could leave changed, before and after it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from captum_dexar.inputs import Prompt
from torch import nn
from torch.nn.modules import module as torch_module
from transformers.modeling_utils import AttentionInterface

GET_INTERFACE = AttentionInterface.__dict__["get_interface"]
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
# generate() itself keeps the length of its static caches on the model.
LEFT_BY_GENERATE = {"_previous_max_cache_length"}
GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_")]


def state_of(model: nn.Module) -> dict[str, Any]:
    """Plain values that are equal as long as nothing has changed."""
    state: dict[str, Any] = {}
    # Modules share configurations, and these are slow to write out.
    configurations: dict[int, dict[str, str]] = {}
    for name, module in model.named_modules():
        state[f"hooks of {name}"] = [list(getattr(module, hooks)) for hooks in HOOKS]
        attributes = vars(module)
        state[f"attributes of {name}"] = [
            attribute for attribute in attributes if attribute not in LEFT_BY_GENERATE
        ]
        state[f"training of {name}"] = module.training
        config = getattr(module, "config", None)
        # A module of IDEFICS keeps a number under this name.
        if hasattr(config, "__dict__"):
            if id(config) not in configurations:
                configurations[id(config)] = _plain(config)
            state[f"configuration of {name}"] = configurations[id(config)]
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        state[f"parameter {name}"] = (
            id(parameter),
            parameter.data_ptr(),
            parameter._version,
            parameter.requires_grad,
            None if gradient is None else (id(gradient), gradient._version),
        )
    for name, buffer in model.named_buffers():
        state[f"buffer {name}"] = (buffer.data_ptr(), buffer._version)
    if hasattr(model, "generation_config"):
        state["generation_config"] = _plain(model.generation_config)
    state["global hooks"] = [
        (name, repr(getattr(torch_module, name))) for name in GLOBAL_HOOKS
    ]
    state["get_interface"] = AttentionInterface.__dict__["get_interface"]
    state["attention functions"] = sorted(AttentionInterface().valid_keys())
    state["grad mode"] = torch.is_grad_enabled()
    state["inference mode"] = torch.is_inference_mode_enabled()
    state["default dtype"] = torch.get_default_dtype()
    state["torch RNG"] = torch.get_rng_state().numpy().tobytes()
    _, key, *position = np.random.get_state(legacy=True)
    state["NumPy RNG"] = (key.tobytes(), position)
    state["Python RNG"] = random.getstate()
    return state


def _plain(config: Any) -> dict[str, str]:
    return {name: repr(value) for name, value in vars(config).items()}


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Asserts that the block leaves everything as it is, also when it raises."""
    before = state_of(model)
    try:
        yield
    finally:
        after = state_of(model)
        changed = sorted(
            name
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        )
        assert not changed, f"changed: {changed}"
        assert AttentionInterface.__dict__["get_interface"] is GET_INTERFACE


def warm(model: nn.Module, inputs: dict[str, Any]) -> nn.Module:
    """Runs the model once: transformers installs capture hooks in the first pass."""
    if "input_ids" not in inputs:
        # The decoder's start token, which ``generate`` adds, is added here.
        inputs = Prompt(model, inputs).inputs
    with torch.no_grad():
        model(**inputs)
    return model
