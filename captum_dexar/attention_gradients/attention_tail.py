"""What an attention module does behind its attention, kept as a graph.

A module that chooses keys can't be run again on some positions: its indexer scores all
keys of the pass. So it runs once, and from its attention on with a graph, through which
a gradient at the module's output comes back to the attention's output. The rest of the
layer is replayed on the module's output.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.attention_gradients.interception import Forward, forward_of
from torch import nn, Tensor


@dataclass(eq=False)
class AttentionTail:
    """One run of an attention module, from its attention on.

    Attributes:
        module (nn.Module): the attention module
        leaf (Tensor): its attention's output, ``(batch, queries, heads, head size)``
        output (Tensor): the module's output, with a graph from ``leaf`` on, ``(batch,
            queries, hidden size)``
        further (tuple): what else the module returns
    """

    module: nn.Module
    leaf: Tensor
    output: Tensor
    further: tuple[Any, ...] | None

    def like(self, output: Tensor) -> Any:
        """What the module returns, with another output."""
        return output if self.further is None else (output, *self.further)

    def gradient(self, at_output: Tensor, positions: Tensor) -> Tensor:
        """The gradient of the attention's output at some positions, from that at the
        module's output there."""
        positions = positions.to(at_output.device)
        whole = torch.zeros_like(self.output)
        whole[:, positions] = at_output
        (gradient,) = torch.autograd.grad(
            self.output, self.leaf, whole, retain_graph=True
        )
        return gradient[:, positions.to(gradient.device)]


class KnownTail(torch.autograd.Function):
    """A module's output from its attention's output, by runs that are kept.

    Its arguments are the attention's output, ``(batch, positions, heads, head size)``,
    and the runs with the positions of each that are wanted.
    """

    @staticmethod
    def forward(ctx: Any, attention: Tensor, runs: Any) -> Tensor:
        ctx.runs = runs
        outputs = [
            run.output.detach()[:, positions.to(run.output.device)]
            for run, positions in runs
        ]
        return torch.cat(outputs, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        parts = gradient.split([len(positions) for _, positions in ctx.runs], dim=1)
        gradients = [
            run.gradient(part, positions)
            for (run, positions), part in zip(ctx.runs, parts)
        ]
        return torch.cat(gradients, dim=1), None


# Some runs of an attention module, with the positions of each that are wanted.
Runs = list[tuple[AttentionTail, Tensor]]


class AttentionTails:
    """Runs attention modules with a graph from their attention on.

    Args:
        decoder_layers (sequence of nn.Module): all decoder layers
        layers (collection of int): indices of those whose runs are kept
        keep (Callable): takes a layer's index and each run of its attention module

    Attributes:
        is_wanted (bool): whether any layer's attention module chooses keys; nothing is
            done for other models
    """

    def __init__(
        self,
        decoder_layers: Sequence[nn.Module],
        layers: Collection[int],
        keep: Callable[[int, AttentionTail], object],
    ) -> None:
        self.layers = {index: decoder_layers[index] for index in layers}
        self.keep = keep
        # Layers without an indexer may take over the choice of another layer.
        self.is_wanted = any(
            type(module).__name__.endswith("Indexer")
            for layer in decoder_layers
            for module in layer.modules()
        )
        self._leaf: Tensor | None = None

    def forwards(self) -> dict[nn.Module, Forward]:
        """Replacements for the parts of the layers, among them their attention."""
        if not self.is_wanted:
            return {}
        return {
            part: self._run(index, part)
            for index, layer in self.layers.items()
            for part in layer.children()
            if any(True for _ in part.children())
        }

    def begin(self, output: Tensor) -> Tensor:
        """An attention's output as a leaf. From here to the end of the module a graph
        is kept."""
        self._leaf = output.detach().requires_grad_()
        torch.set_grad_enabled(True)
        return self._leaf

    def _run(self, index: int, part: nn.Module) -> Forward:
        original = forward_of(part)

        def forward(*args: Any, **kwargs: Any) -> Any:
            is_enabled = torch.is_grad_enabled()
            self._leaf = None
            output = original(*args, **kwargs)
            leaf, self._leaf = self._leaf, None
            if leaf is None:
                return output
            torch.set_grad_enabled(is_enabled)
            first, further = output, None
            if isinstance(output, tuple):
                first, further = output[0], output[1:]
            tail = AttentionTail(part, leaf, first, further)
            if first.requires_grad:
                self.keep(index, tail)
            return tail.like(first.detach())

        return forward
