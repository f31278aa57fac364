"""The state of a model: whether it can be explained, and keeping it unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.model.adapters import check_adapters
from captum_dexar.model.thread_attributes import thread_attributes
from captum_dexar.model.training_mode import in_training
from captum_dexar.model.wrappers import uncompiled
from torch import nn, Tensor

# Attributes in which models of transformers remember the last prompt.
REMEMBERED = ("rope_deltas",)


def check_model_state(model: nn.Module) -> None:
    """Raises RuntimeError where gradients are unavailable or would be random, passes
    return tuples, or positions are not those of the input."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Attributions need gradients, which torch.inference_mode switches off for "
            "good. Leave that block; torch.no_grad is fine."
        )
    training = in_training(model)
    if training is not None:
        raise RuntimeError(
            "The model is in training mode, where dropout makes every explanation a "
            f"different one, or batch norm changes: {training}. Call model.eval() "
            "first."
        )
    _check_outputs_are_named(model)
    check_adapters(model)
    parameters = list(model.parameters())
    if any(parameter.is_inference() for parameter in parameters):
        raise RuntimeError(
            "The model's weights were made inside torch.inference_mode, so that no "
            "gradient can pass. Load the model outside of it."
        )
    is_on_meta = any(parameter.is_meta for parameter in parameters)
    missing = _never_loaded(model) if is_on_meta else []
    if missing:
        raise RuntimeError(
            "The model has weights that were never loaded, beginning with "
            f"{missing[0]}: {len(missing)} of {len(parameters)} parameters are on the "
            "meta device, and nothing loads them for a pass. Load the model with "
            "from_pretrained; its device_map can offload."
        )


def _check_outputs_are_named(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if getattr(getattr(module, "config", None), "return_dict", None) is False:
            part = f"config of its {name}" if name else "configuration"
            raise RuntimeError(
                f"The model's {part} has return_dict=False, by which passes return "
                "tuples, but parts of the model (and generate) read their outputs by "
                "name. Set return_dict to True there."
            )


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's inputs: that of its embeddings.

    Weights that accelerate has offloaded are on the meta device between two passes; for
    these it is the device that they are run on.
    """
    embeddings: Any = input_embeddings(model)
    device = torch.device(embeddings.weight.device)
    if device.type != "meta":
        return device
    for module in (embeddings, *model.modules()):
        for hook in _hooks_of(module):
            runs_on = getattr(hook, "execution_device", None)
            if runs_on is not None:
                return torch.device(runs_on)
    return device


def input_embeddings(model: nn.Module) -> nn.Module:
    """The embeddings of the language model's ids."""
    root: Any = model
    try:
        embeddings: nn.Module = root.get_input_embeddings()
    except NotImplementedError:
        # Some models know only those of their decoder.
        embeddings = root.get_decoder().get_input_embeddings()
    return embeddings


@contextmanager
def loaded_weights(module: nn.Module) -> Iterator[None]:
    """Within it a module's own weights can be read, even if they are offloaded."""
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    try:
        hook.pre_forward(module)
        yield
    finally:
        hook.post_forward(module, None)


def is_offloaded(model: nn.Module) -> bool:
    """Whether some weights are only loaded while their module runs."""
    return any(parameter.is_meta for parameter in model.parameters())


def _hooks_of(module: nn.Module) -> list[Any]:
    """The hooks that accelerate runs a module with."""
    hook: Any = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", [hook]))


def _never_loaded(module: nn.Module, name: str = "") -> list[str]:
    """Names of the parameters on the meta device that no hook loads."""
    hooks = [hook for hook in _hooks_of(module) if getattr(hook, "offload", False)]
    if any(hook.place_submodules for hook in hooks):
        return []
    missing = [
        f"{name}{own}"
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.is_meta and not hooks
    ]
    for child_name, child in module.named_children():
        missing += _never_loaded(child, f"{name}{child_name}.")
    return missing


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Restores the tensors that a model keeps as plain attributes between two passes.

    Models with multi-axis positions remember where the last prompt's ended
    (``rope_deltas``). Users who decode with a cache of their own rely on it. Within the
    block other threads neither see nor change what this thread's passes remember, and
    no compiled code runs, which hooks can't watch.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    remembered = {
        module: name
        for module, attributes in before
        for name in REMEMBERED
        if name in attributes
    }
    try:
        with thread_attributes(remembered), uncompiled(model):
            yield
    finally:
        for module, attributes in before:
            now = vars(module)
            for name, value in attributes.items():
                if name == remembered.get(module):
                    # What it is now was put there by another thread.
                    continue
                other = now.get(name)
                if other is not value and isinstance(
                    other if value is None else value, Tensor
                ):
                    now[name] = value
