"""Standing between a model and its attention function, for one pass."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.modeling_utils import AttentionInterface

AttentionFunction = Callable[..., Any]
Tap = Callable[..., Any]

# Interceptions at work, by thread; those of one thread are nested.
_TAPS: dict[int, list[tuple[Mapping[nn.Module, int], Tap]]] = {}
_PATCH_LOCK = threading.Lock()
_ORIGINAL = AttentionInterface.get_interface


@contextmanager
def intercepted_attention(
    layer_of: Mapping[nn.Module, int], tap: Tap
) -> Iterator[None]:
    """Routes the attention calls of some modules, in this thread, through ``tap``.

    Every decoder of transformers asks ``AttentionInterface.get_interface`` for its
    attention function at each call. Wrapping that method, rather than registering an
    implementation of another name, leaves the model's configuration and masks as they
    are: some models test the implementation's name, and break silently under a new one.

    Args:
        layer_of (Mapping): the modules whose calls are routed, with the index of their
            decoder layer. Calls of other modules, or from other threads, pass
            untouched; of two nested interceptions the inner one is asked first.
        tap (Callable): called as ``tap(layer, attention_function, eager_function,
            module, query, key, value, attention_mask, **kwargs)``; returns what the
            attention function would.
    """
    thread = threading.get_ident()
    with _PATCH_LOCK:
        if not _TAPS:
            _patch()
        _TAPS.setdefault(thread, []).append((layer_of, tap))
    try:
        yield
    finally:
        with _PATCH_LOCK:
            _TAPS[thread].pop()
            if not _TAPS[thread]:
                del _TAPS[thread]
            if not _TAPS:
                AttentionInterface.get_interface = _ORIGINAL


def _patch() -> None:
    global _ORIGINAL
    # Whatever stands there now, be it somebody else's patch, is what is put back.
    original = _ORIGINAL = AttentionInterface.get_interface

    def get_interface(
        self: AttentionInterface, attn_implementation: str, default: AttentionFunction
    ) -> AttentionFunction:
        attention_function: AttentionFunction = original(
            self, attn_implementation, default
        )
        taps = _TAPS.get(threading.get_ident())
        if not taps:
            return attention_function

        def routed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            for layer_of, tap in reversed(taps):
                layer = layer_of.get(module)
                if layer is not None:
                    return tap(
                        layer, attention_function, default, module, *args, **kwargs
                    )
            return attention_function(module, *args, **kwargs)

        return routed

    AttentionInterface.get_interface = get_interface
