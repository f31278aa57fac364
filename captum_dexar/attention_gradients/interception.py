"""Standing between a model and its attention function, for one pass."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.modeling_utils import AttentionInterface

AttentionFunction = Callable[..., Any]
Tap = Callable[..., Any]

# The interface is shared by the whole process, so one pass at a time may patch it.
_PATCH_LOCK = threading.RLock()


@contextmanager
def intercepted_attention(
    layer_of: Mapping[nn.Module, int], tap: Tap
) -> Iterator[None]:
    """Routes the attention calls of some modules through ``tap``.

    Every decoder of transformers asks ``AttentionInterface.get_interface`` for its
    attention function at each call. Wrapping that method, rather than registering an
    implementation of another name, leaves the model's configuration and masks as they
    are: some models test the implementation's name, and break silently under a new one.

    Args:
        layer_of (Mapping): the modules whose calls are routed, with the index of their
            decoder layer. Calls of other modules, or from other threads, pass
            untouched.
        tap (Callable): called as ``tap(layer, attention_function, eager_function,
            module, query, key, value, attention_mask, **kwargs)``; returns what the
            attention function would.
    """
    original = AttentionInterface.get_interface
    thread = threading.get_ident()

    def get_interface(
        self: AttentionInterface, attn_implementation: str, default: AttentionFunction
    ) -> AttentionFunction:
        attention_function = original(self, attn_implementation, default)

        def routed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            layer = layer_of.get(module)
            if layer is None or threading.get_ident() != thread:
                return attention_function(module, *args, **kwargs)
            return tap(layer, attention_function, default, module, *args, **kwargs)

        return routed

    with _PATCH_LOCK:
        AttentionInterface.get_interface = get_interface
        try:
            yield
        finally:
            AttentionInterface.get_interface = original
