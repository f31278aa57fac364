"""Seeing every softmax that the attention modules of decoder layers take.

Some models compute attention in the module itself, and return no probabilities, or
return something else in their place.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from captum_dexar.model.thread_hooks import forward_hooks, forward_pre_hooks
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

# Called with the names of the modules that are running, the outermost first, and with
# the scores and probabilities, ``(batch, heads, queries, keys)``.
OnSoftmax = Callable[[int, list[str], Tensor, Tensor], None]

_SOFTMAX = {torch.softmax, Tensor.softmax, nn.functional.softmax}


class _SoftmaxMode(TorchFunctionMode):
    """Passes on scores and probabilities; ``replace`` may put others in their place."""

    def __init__(self, replace: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.replace = replace

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _SOFTMAX:
            return self.replace(args[0] if args else kwargs["input"], output)
        return output


@contextmanager
def watched_softmax(layers: Mapping[int, nn.Module], keep: OnSoftmax) -> Iterator[None]:
    """Within it ``keep`` sees every softmax of this thread inside some layers.

    Args:
        layers (Mapping): decoder layers by their index
        keep (Callable): see :data:`OnSoftmax`
    """
    running: list[tuple[int, str, nn.Module]] = []

    def enter(index: int, name: str, module: nn.Module, args: Any) -> None:
        running.append((index, name, module))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    def replace(scores: Tensor, output: Tensor) -> Tensor:
        if not running:
            return output
        index, _, module = running[-1]
        names = [name for _, name, _ in running]
        if output.dim() == 4:
            keep(index, names, scores, output)
            return output
        num_heads = getattr(module, "num_heads", None)
        if output.dim() != 3 or num_heads is None or output.shape[0] % num_heads:
            # Not an attention's: that of a router, say.
            return output
        by_head = output.view(-1, num_heads, *output.shape[1:])
        keep(index, names, scores.view(by_head.shape), by_head)
        return by_head.view(output.shape)

    entered = {
        module: partial(enter, index, name)
        for index, layer in layers.items()
        for name, module in layer.named_modules()
    }
    left = dict.fromkeys(entered, leave)
    with forward_pre_hooks(entered), forward_hooks(left), _SoftmaxMode(replace):
        yield
