"""What a user may have done to a model before it is explained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests.helpers.independent import decoder_layers
from torch import nn, Tensor


@dataclass(frozen=True)
class Wrapper:
    """A change of a model.

    Attributes:
        name: in the table
        apply: changes the model, in place, and returns it
        named: what a refusal has to say, as a regular expression
    """

    name: str
    apply: Callable[[nn.Module], nn.Module]
    named: str = "hook|forward|output of"


class Adapted(nn.Module):
    """A projection with a low-rank addition, as LoRA makes it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(rank)
        down = torch.randn(rank, base.in_features, generator=generator)
        up = torch.randn(base.out_features, rank, generator=generator)
        self.down, self.up = nn.Parameter(0.3 * down), nn.Parameter(0.3 * up)

    def forward(self, hidden: Tensor) -> Tensor:
        added: Tensor = hidden @ self.down.T @ self.up.T
        return self.base(hidden) + added


def adapted(model: nn.Module) -> nn.Module:
    """Wraps a projection of every decoder layer's attention and one of its MLP."""
    for layer in decoder_layers(model):
        for module in list(layer.modules()):
            for name in ("v_proj", "o_proj", "out_proj", "dense", "up_proj", "fc1"):
                inner = getattr(module, name, None)
                if isinstance(inner, nn.Linear):
                    setattr(module, name, Adapted(inner))
    return model


def steered(model: nn.Module) -> nn.Module:
    """A hook adds to the output of a decoder layer, as steering vectors do."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        direction = torch.linspace(-1.0, 1.0, hidden.shape[-1], dtype=hidden.dtype)
        changed = 1.1 * hidden + direction
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    decoder_layers(model)[1].register_forward_hook(add)
    return model


def scaled_attention(model: nn.Module) -> nn.Module:
    """A hook changes what an attention module gives to its layer."""

    def scale(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (0.7 * output[0], *output[1:])
        return 0.7 * output

    layer = decoder_layers(model)[1]
    for name, module in layer.named_children():
        if name in ("self_attn", "cross_attn"):
            module.register_forward_hook(scale)
    return model


def changed_inputs(model: nn.Module) -> nn.Module:
    """A hook changes what an MLP's last projection gets."""

    def shift(module: nn.Module, args: Any) -> Any:
        return (args[0] * 0.8, *args[1:])

    for name, module in decoder_layers(model)[1].named_modules():
        if name.endswith(("down_proj", "fc2", "dense_4h_to_h", "w2")):
            module.register_forward_pre_hook(shift)
    return model


def replaced_forward(model: nn.Module) -> nn.Module:
    """A layer's forward is replaced by a function around it."""
    layer: Any = decoder_layers(model)[1]
    kind = type(layer)

    class Patched(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            if isinstance(output, tuple):
                return (output[0] * 0.9, *output[1:])
            return output * 0.9

    Patched.__name__ = kind.__name__
    layer.__class__ = Patched
    return model


# Nothing is refused for it.
PLAIN = Wrapper("plain", lambda model: model, "(?!)")
WRAPPERS = (
    Wrapper("hook on a decoder layer", steered),
    Wrapper("hook on an attention", scaled_attention),
    Wrapper("hook before a projection", changed_inputs),
    Wrapper("low-rank adapters", adapted),
    Wrapper("subclass of a decoder layer", replaced_forward),
)
