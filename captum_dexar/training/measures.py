"""Means of what is measured on several training steps."""

from collections.abc import Iterator

import torch
from torch import Tensor


class Measures:
    """Named means, each of all values that were added to it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Adds all elements of ``values`` to the mean of this name."""
        total = values.detach().sum(dtype=torch.float64).item()
        self._add(name, total, values.numel())

    def update(self, other: "Measures") -> None:
        """Adds all that was added to ``other``."""
        for name, (total, count) in other._sums.items():
            self._add(name, total, count)

    def _add(self, name: str, total: float, count: int) -> None:
        if count:
            before, number = self._sums.get(name, (0.0, 0))
            self._sums[name] = before + total, number + count

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __getitem__(self, name: str) -> float:
        total, count = self._sums[name]
        return total / count

    def rounded(self) -> dict[str, float]:
        """The means by name, with four digits."""
        return {name: round(self[name], 4) for name in self}
