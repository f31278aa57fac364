"""Tensors of which each pass adds a row, or a key, and nothing else is kept."""

import torch
from torch import Tensor


class Overwritten(Exception):
    """A tensor that was kept has been changed since."""


class Rows:
    """The last entry along an axis of one tensor a pass.

    A tensor that has no other entry is kept as it is: nothing is copied while a model
    decodes. Of longer ones the last entry is, so that they don't stay.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self._rows: list[Tensor] = []
        self._versions: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, tensor: Tensor) -> None:
        """Takes a pass's tensor."""
        size = tensor.shape[self.axis]
        if size > 1:
            tensor = tensor.narrow(self.axis, size - 1, 1).clone()
        self._rows.append(tensor)
        self._versions.append(tensor._version)

    def whole(self) -> Tensor:
        """All of them side by side, in a tensor of its own.

        Raises:
            Overwritten: the model has written into one of them.
        """
        if [row._version for row in self._rows] != self._versions:
            raise Overwritten
        return torch.cat(self._rows, dim=self.axis)

    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(row.nbytes for row in self._rows)

    def reset(self) -> None:
        """Starts anew with the next pass."""
        self._rows.clear()
        self._versions.clear()


class GrowingKeys:
    """The keys (or values) that all recorded rows read, from the passes' own tensors.

    A cache that grows by a position a pass needs no copy: its last tensor holds them
    all. Of a sliding window each pass's new position is kept besides the first tensor.
    """

    def __init__(self, is_constant: bool) -> None:
        self.is_constant = is_constant
        self.first: Tensor | None = None
        self.further = Rows(axis=2)

    def add(self, keys: Tensor) -> None:
        """Takes the tensor of another pass, ``(batch, heads, keys, head size)``."""
        first = self.first
        if first is None or self.is_constant:
            self.first = keys
        elif not len(self.further) and keys.shape[2] == first.shape[2] + 1:
            self.first = keys
        else:
            self.further.add(keys)

    def whole(self) -> Tensor:
        """All of them, up to the last row's own."""
        assert self.first is not None
        if not len(self.further):
            return self.first
        return torch.cat([self.first, self.further.whole()], dim=2)

    def reset(self) -> None:
        """Starts anew with the next pass."""
        self.first = None
        self.further.reset()
