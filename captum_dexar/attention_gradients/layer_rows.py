"""Some rows of a decoder layer's call: what behind the attention runs row by row."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache


def of_rows(value: Any, num_queries: int, rows: Tensor) -> Any:
    """The arguments of a layer, of a pass over ``num_queries`` positions, for some.

    The axis of the positions is the first of that length: in every decoder it stands
    before the keys' or a head's. Caches are left out, so that they stay as they are,
    and mappings copied, as some layers hand their keys to later ones in them.

    Args:
        value (Any): an argument, or a tuple, list or mapping of them
        num_queries (int): positions of the pass
        rows (Tensor): the positions wanted, ``(rows,)``
    """
    if isinstance(value, Tensor):
        if num_queries not in value.shape:
            return value
        axis = value.shape.index(num_queries)
        return value.index_select(axis, rows.to(value.device))
    if isinstance(value, Cache):
        return None
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(of_rows(item, num_queries, rows) for item in value)
    if isinstance(value, Mapping):
        return {name: of_rows(item, num_queries, rows) for name, item in value.items()}
    return value


def without_cache(value: Any) -> Any:
    """The arguments of a layer for running it again over all positions."""
    if isinstance(value, Cache):
        return None
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(without_cache(item) for item in value)
    if isinstance(value, Mapping):
        return {name: without_cache(item) for name, item in value.items()}
    return value
