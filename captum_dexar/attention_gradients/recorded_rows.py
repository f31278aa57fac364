"""Tensors of which each pass adds a row, or a key, and nothing else is kept."""

import torch
from torch import Tensor

CAPACITY = 16


class RowBuffer:
    """The last entry along an axis of one tensor a pass, side by side.

    They are copied into a buffer of their own: small tensors that are held while a
    model decodes would leave its allocator no block for the next, slightly longer, keys
    and values, which costs more than all of recording.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self._buffer: Tensor | None = None

    def add(self, tensor: Tensor) -> None:
        """Takes a pass's tensor."""
        axis, buffer = self.axis, self._buffer
        size = tensor.shape[axis]
        if size > 1:
            tensor = tensor.narrow(axis, size - 1, 1)
        if buffer is None or self.count == buffer.shape[axis]:
            buffer = self._grown(tensor)
        buffer.narrow(axis, self.count, 1).copy_(tensor)
        self.count += 1

    def whole(self) -> Tensor:
        """All of them, valid until the next is added to a buffer that was reset."""
        assert self._buffer is not None
        return self._buffer.narrow(self.axis, 0, self.count)

    def reset(self) -> None:
        """Starts anew in the same memory."""
        self.count = 0

    def _grown(self, tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        shape[self.axis] = max(CAPACITY, 2 * self.count)
        buffer = tensor.new_empty(shape)
        if self._buffer is not None and self.count:
            buffer.narrow(self.axis, 0, self.count).copy_(self.whole())
        self._buffer = buffer
        return buffer


class GrowingKeys:
    """The keys (or values) that all recorded rows read, from the passes' own tensors.

    A cache that grows by a position a pass needs no copy: its last tensor holds them
    all. Of a sliding window each pass's new position is kept besides the first tensor.
    """

    def __init__(self, is_constant: bool) -> None:
        self.is_constant = is_constant
        self.first: Tensor | None = None
        self.further = RowBuffer(axis=2)

    def add(self, keys: Tensor) -> None:
        """Takes the tensor of another pass, ``(batch, heads, keys, head size)``."""
        first = self.first
        if first is None or self.is_constant:
            self.first = keys
        elif not self.further.count and keys.shape[2] == first.shape[2] + 1:
            self.first = keys
        else:
            self.further.add(keys)

    def whole(self) -> Tensor:
        """All of them, up to the last row's own."""
        assert self.first is not None
        if not self.further.count:
            return self.first
        return torch.cat([self.first, self.further.whole()], dim=2)

    def reset(self) -> None:
        """Starts anew with the next pass."""
        self.first = None
        self.further.reset()
