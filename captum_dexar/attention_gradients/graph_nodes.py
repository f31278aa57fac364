"""Walking over the graph that a tensor was computed by."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def graph_nodes(tensor: Tensor) -> Iterator[Any]:
    """Every node of the graph behind a tensor, once."""
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions)
