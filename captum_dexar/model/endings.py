"""What a model computes between its last decoder layer and its output head."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn, Tensor

# Modules in a row between the last layer and the head.
LONGEST_CHAIN = 3


class JoinedStreams(nn.Module):
    """The end of a decoder with AltUp (Gemma 3n): the mean of its streams, each
    projected and scaled to the first one's magnitude, and the norm."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.projections = decoder.altup_unembed_projections
        self.norm = decoder.norm

    def forward(self, states: Tensor) -> Tensor:
        """Of ``(batch, positions, streams, hidden size)``."""
        first, *others = states.unbind(2)
        streams = [first]
        magnitude = first.square().mean(-1, keepdim=True).sqrt()
        for projection, stream in zip(self.projections, others):
            projected = projection(stream)
            size = projected.square().mean(-1, keepdim=True).clamp(min=1e-5).sqrt()
            streams.append(projected * magnitude / size)
        normed: Tensor = self.norm(torch.stack(streams).mean(0))
        return normed


class AttendedBlocks(nn.Module):
    """The end of a decoder with block attention residuals (Inkling 2): attention over
    the states of all blocks, and the norm."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.final_input = decoder.final_input
        self.norm = decoder.norm

    def forward(self, states: Tensor) -> Tensor:
        """Of ``(batch, positions, blocks, hidden size)``, the last layer's own last."""
        joined = self.final_input(states[:, :, :-1], states[:, :, -1])[0]
        normed: Tensor = self.norm(joined)
        return normed.to(states.dtype)


# By an attribute that only such a decoder has.
_ENDINGS = {
    "altup_unembed_projections": JoinedStreams,
    "final_input": AttendedBlocks,
}


def possible_endings(
    model: nn.Module, chain: Sequence[nn.Module]
) -> Iterator[nn.Module | None]:
    """Candidates for a model's end, the likeliest first.

    Args:
        model (nn.Module): the model
        chain (sequence of nn.Module): the modules that run one after the other on the
            last layer's output, the head excluded
    """
    for module in model.modules():
        for name, ending in _ENDINGS.items():
            if hasattr(module, name):
                yield ending(module).eval()
                return
    if not chain:
        yield None
    for length in range(1, min(len(chain), LONGEST_CHAIN) + 1):
        yield chain[0] if length == 1 else nn.Sequential(*chain[:length]).eval()
