"""A KV cache that is not copied at every decoding step."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Number of positions allocated in advance.
ROOM = 64


class GrowingLayer(DynamicLayer):
    """Keys and values in a preallocated buffer.

    The cache layer of transformers concatenates all keys and values with the new ones,
    which copies the whole cache for each token. Here new ones are appended in place and
    a view is returned.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rooms: list[Tensor | None] = [None, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`CacheLayerMixin.update`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        layer: Any = self
        layer.keys = keys = self._behind(0, layer.keys, key_states)
        layer.values = values = self._behind(1, layer.values, value_states)
        return keys, values

    def _behind(self, place: int, held: Tensor, new: Tensor) -> Tensor:
        length = held.shape[-2] if held.numel() else 0
        total = length + new.shape[-2]
        room = self._rooms[place]
        fits = room is not None and length and room.shape[-2] >= total
        if room is None or not fits or not _begins_with(room, held):
            room = new.new_empty(*new.shape[:-2], total + ROOM, new.shape[-1])
            if length:
                room[..., :length, :] = held
            self._rooms[place] = room
        room[..., length:total, :] = new
        return room[..., :total, :]


def _begins_with(room: Tensor, held: Tensor) -> bool:
    """Whether ``held`` is still a view of the buffer: nothing was reordered since."""
    return (
        held.data_ptr() == room.data_ptr()
        and held.stride() == room.stride()
        and held.shape[:-2] == room.shape[:-2]
    )


def growing_cache(config: Any) -> DynamicCache:
    """An empty decoder cache whose full-attention layers grow in place."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = GrowingLayer()
    return cache
