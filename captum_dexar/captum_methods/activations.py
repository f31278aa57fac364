"""Whether a method that replaces the gradients of activations replaces all of them.

DeepLift, Guided Backprop and Deconvolution hook torch's own activation modules. Where a
model uses others, or functions, these methods silently take the plain gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Deconvolution, DeepLift, GuidedBackprop
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from captum_dexar.attention_gradients.gradients import graph_nodes
from captum_dexar.model.thread_hooks import forward_hooks
from torch import nn, Tensor

# What autograd calls the activations of torch, without "Backward0".
_ACTIVATIONS = frozenset(
    "Celu Elu Erf Gelu Glu Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu "
    "LogSigmoid Mish PreluKernel Relu Rrelu Selu Sigmoid Silu Softplus Softshrink Tanh "
    "Threshold".split()
)


def check_modules(method: Any, model: nn.Module, family: str) -> None:
    """Raises NotImplementedError if a model has none of the modules that are hooked."""
    hooked = _hooked(method)
    if hooked and not any(isinstance(module, hooked) for module in model.modules()):
        raise _refused(method, family, "this model has none")


def check_gradients(
    method: Any,
    model: nn.Module,
    score: Callable[[Tensor], Tensor],
    pixels: Tensor,
    family: str,
) -> None:
    """Raises NotImplementedError if an activation between pixels and score is another.

    Args:
        method (Attribution): the method
        model (nn.Module): the model
        score (Callable): maps pixels to what is explained
        pixels (Tensor): the model's pixels
        family (str): the model's family
    """
    hooked = _hooked(method)
    if not hooked:
        return
    replaced: set[Any] = set()

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        replaced.add(output.grad_fn)

    modules = [module for module in model.modules() if isinstance(module, hooked)]
    with forward_hooks(dict.fromkeys(modules, note)), torch.enable_grad():
        result = score(pixels.detach().clone().requires_grad_())
    activations = [node for node in graph_nodes(result) if _name_of(node)]
    others = sorted({_name_of(node) for node in activations if node not in replaced})
    if others:
        raise _refused(method, family, f"this model also computes {', '.join(others)}")
    if not activations:
        raise _refused(method, family, "this model runs none")


def _hooked(method: Any) -> tuple[type[nn.Module], ...]:
    """The modules whose gradients a method replaces."""
    if isinstance(method, DeepLift):
        return tuple(SUPPORTED_NON_LINEAR)
    if isinstance(method, (GuidedBackprop, Deconvolution)):
        return (nn.ReLU,)
    return ()


def _name_of(node: Any) -> str:
    """The activation that a node differentiates; "" if none."""
    name = str(node.name()).partition("Backward")[0]
    return name if name in _ACTIVATIONS else ""


def _refused(method: Any, family: str, reason: str) -> NotImplementedError:
    is_deep_lift = isinstance(method, DeepLift)
    modules = "torch.nn.ReLU, Tanh ..." if is_deep_lift else "torch.nn.ReLU"
    return NotImplementedError(
        f"{type(method).__name__} can't explain a model of the family {family}: it "
        f"replaces the gradients of torch's own activation modules ({modules}), but "
        f"{reason}. Elsewhere it is the plain gradient"
        f"{' times the input' if is_deep_lift else ''}. Use IntegratedGradients, or "
        f"{'InputXGradient' if is_deep_lift else 'Saliency'}."
    )
