"""Refusing projections through which no gradient passes.

A kernel for inference only, as of some quantised weights, returns an output without a
graph, and so does one that rounds its inputs. PyTorch then leaves its part out of a
gradient without a word.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum_dexar.attention_gradients.interception import Forward, forward_of
from captum_dexar.model.changes import has_own_forward, has_plain_weight
from torch import nn, Tensor

# Projections that round their inputs, by name. Their outputs have a graph all the same,
# by way of the scales that the inputs were rounded with.
_ROUNDING = {"BitLinear"}


def guarded_projections(
    root: nn.Module, is_read: Callable[[], bool] = lambda: True
) -> dict[nn.Module, Forward]:
    """Replacements for the projections inside a module that are no plain linear layers,
    or whose ``forward`` was replaced.

    Args:
        root (nn.Module): a decoder layer
        is_read (Callable, optional): whether a gradient is wanted through what runs at
            the moment. Default: always
    """
    return {
        module: _guarded(module, is_read)
        for module in root.modules()
        if _is_projection(module)
        and not (has_plain_weight(module) and has_own_forward(module))
    }


def _is_projection(module: nn.Module) -> bool:
    # Their kinds are many, and only some are subclasses of nn.Linear.
    return hasattr(module, "in_features") or hasattr(module, "infeatures")


def _guarded(module: nn.Module, is_read: Callable[[], bool]) -> Forward:
    original = forward_of(module)

    def forward(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(input, *args, **kwargs)
        wants_graph = torch.is_grad_enabled() and input.requires_grad and is_read()
        # A router's projection returns its scores beside the logits.
        made = output if isinstance(output, tuple) else (output,)
        kind = type(module).__name__
        if wants_graph and (kind in _ROUNDING or not _depend(made, input)):
            weight: Any = getattr(module, "weight", None)
            raise RuntimeError(
                f"A {kind} of the decoder has no backward pass (its weight is a "
                f"{type(weight).__name__}), so that attributions would be wrong. Some "
                "kernels for quantised weights are for inference only, as where "
                "activations are quantised too; quantise the weights alone, or load "
                "the model another way."
            )
        return output

    return forward


def _depend(outputs: Sequence[Tensor], input: Tensor) -> bool:
    """Whether there is a graph from an input to outputs.

    That they have one is not enough: it may lead to weights alone.
    """
    waiting = [output.grad_fn for output in outputs if output.requires_grad]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node is input.grad_fn or getattr(node, "variable", None) is input:
            return True
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)
    return any(output is input for output in outputs)
