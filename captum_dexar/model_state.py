"""Whether a model can be explained in the state it is in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn, Tensor


def check_model_state(model: nn.Module) -> None:
    """Raises RuntimeError where gradients can't be had or would be random."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Attributions need gradients, which torch.inference_mode switches off for "
            "good. Leave that block; torch.no_grad is fine."
        )
    if any(module.training for module in model.modules()):
        raise RuntimeError(
            "The model is in training mode, where dropout makes every explanation a "
            "different one. Call model.eval() first."
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise RuntimeError(
            "The model's weights were made inside torch.inference_mode, so that no "
            "gradient can pass. Load the model outside of it."
        )


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Puts back the tensors that a model keeps as plain attributes between two passes.

    Models with positions of several axes remember how far those of the last prompt got
    (``rope_deltas``). Whoever is decoding with a cache of their own relies on it.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            now = vars(module)
            for name, value in attributes.items():
                other = now.get(name)
                if other is not value and isinstance(
                    other if value is None else value, Tensor
                ):
                    now[name] = value


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Within it no parameter asks for a gradient: nothing is kept for one."""
    asking = [
        (module, name)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    try:
        for module, name in asking:
            module.get_parameter(name).requires_grad_(False)
        yield
    finally:
        for module, name in asking:
            # By its name: offloading puts others in a parameter's place.
            module.get_parameter(name).requires_grad_(True)
