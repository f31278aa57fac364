"""A cache for a layer that is run again: the model's own must not notice."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    LinearAttentionCacheLayerMixin,
)

CACHES = (Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin)


class FrozenCache:
    """A cache, or a layer of one, that can be read but is not written to.

    Caches hold more than keys and values: an indexer's keys, the states of convolutions
    and of recurrent layers. Each kind has a method to update it, which returns what is
    to be read from then on. Here these return what they are given.

    Args:
        cache (Cache or CacheLayerMixin): the model's own
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        if name.startswith("update"):
            return _given
        value = getattr(self._cache, name)
        if not callable(value):
            return _read_only(value)
        return lambda *args, **kwargs: _read_only(value(*args, **kwargs))


def _given(*states: Any, **named: Any) -> Any:
    """The states that an update is given: keys and values, or a single one."""
    given = [state for state in (*states, *named.values()) if isinstance(state, Tensor)]
    return given[0] if len(given) == 1 else tuple(given)


def _read_only(value: Any) -> Any:
    if isinstance(value, Tensor):
        # Some states are overwritten in place.
        return value.clone()
    if isinstance(value, CACHES):
        return FrozenCache(value)
    if isinstance(value, dict):
        return {key: _read_only(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_read_only(item) for item in value)
    return value
