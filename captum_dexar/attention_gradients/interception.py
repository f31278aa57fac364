"""Intercepting a model's attention calls, and replacing modules, in one thread."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from captum_dexar.attention_gradients.attention_call import (
    AttentionCall,
    AttentionFunction,
)
from torch import nn
from transformers.modeling_utils import AttentionInterface

Tap = Callable[[AttentionCall], Any]
Forward = Callable[..., Any]


class _Interception(NamedTuple):
    layer_of: Mapping[nn.Module, int]
    cross_attention: Collection[nn.Module]
    tap: Tap


_LOCK = threading.Lock()
# Active interceptions by thread, the innermost last.
_INTERCEPTIONS: dict[int, list[_Interception]] = {}
_ORIGINAL = AttentionInterface.get_interface


@contextmanager
def intercepted_attention(
    layer_of: Mapping[nn.Module, int],
    tap: Tap,
    cross_attention: Collection[nn.Module] = (),
) -> Iterator[None]:
    """Routes the attention calls of some modules, in this thread, through ``tap``.

    Every decoder of transformers asks ``AttentionInterface.get_interface`` for its
    attention function at each call. That method is wrapped, rather than an
    implementation of another name registered, because some models test the
    implementation's name and break silently under a new one: configuration and masks
    stay as they are.

    Args:
        layer_of (Mapping): the modules whose calls are routed, with the index of their
            decoder layer. Calls of other modules, or from other threads, are not
            affected; of two nested interceptions the inner one comes first.
        tap (Callable): takes the :class:`AttentionCall`; returns what the attention
            function would
        cross_attention (Collection, optional): the modules whose calls are
            cross-attention that reads the image. Default: none
    """
    thread = threading.get_ident()
    with _LOCK:
        if not _INTERCEPTIONS:
            _patch()
        _INTERCEPTIONS.setdefault(thread, []).append(
            _Interception(layer_of, cross_attention, tap)
        )
    try:
        yield
    finally:
        with _LOCK:
            _INTERCEPTIONS[thread].pop()
            if not _INTERCEPTIONS[thread]:
                del _INTERCEPTIONS[thread]
            if not _INTERCEPTIONS:
                AttentionInterface.get_interface = _ORIGINAL


def _patch() -> None:
    global _ORIGINAL
    # Whatever is there now is put back later, even somebody else's patch.
    original = _ORIGINAL = AttentionInterface.get_interface

    def get_interface(
        self: AttentionInterface, attn_implementation: str, default: AttentionFunction
    ) -> AttentionFunction:
        attention_function: AttentionFunction = original(
            self, attn_implementation, default
        )
        interceptions = _INTERCEPTIONS.get(threading.get_ident())
        if not interceptions:
            return attention_function

        def routed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            for layer_of, cross_attention, tap in reversed(interceptions):
                layer = layer_of.get(module)
                if layer is not None:
                    is_cross = module in cross_attention
                    functions = attention_function, default
                    return tap(
                        AttentionCall(
                            layer, is_cross, *functions, module, *args, **kwargs
                        )
                    )
            return attention_function(module, *args, **kwargs)

        return routed

    AttentionInterface.get_interface = get_interface


class _Route:
    """Where the calls of a module go.

    Attributes:
        original (Callable): the module's own ``forward``
        in_instance (Callable or None): a ``forward`` found in the instance's attributes
        by_thread (dict): replacements by thread, the innermost last
    """

    def __init__(self, module: nn.Module) -> None:
        self.original: Forward = module.forward
        self.in_instance: Forward | None = vars(module).get("forward")
        self.by_thread: dict[int, list[Forward]] = {}

    def forward(self) -> Forward:
        """What a call from this thread runs."""
        forwards = self.by_thread.get(threading.get_ident())
        return forwards[-1] if forwards else self.original


# Modules with an active replacement.
_ROUTES: dict[nn.Module, _Route] = {}


@contextmanager
def replaced_forward(replacements: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Replaces the ``forward`` of some modules for this thread's calls.

    Unlike a hook it keeps the fast path of a module's call, and the module does not
    compute what is replaced.

    Args:
        replacements (Mapping): what is called in place of each module's ``forward``.
            Other threads run the module itself; of two nested replacements the inner
            one is called.
    """
    thread = threading.get_ident()
    with _LOCK:
        for module, forward in replacements.items():
            if module not in _ROUTES:
                _ROUTES[module] = _routed(module)
            _ROUTES[module].by_thread.setdefault(thread, []).append(forward)
    try:
        yield
    finally:
        with _LOCK:
            for module in replacements:
                by_thread = _ROUTES[module].by_thread
                by_thread[thread].pop()
                if not by_thread[thread]:
                    del by_thread[thread]
                if not by_thread:
                    _restore(module, _ROUTES.pop(module))


def forward_of(module: nn.Module) -> Forward:
    """What this thread's calls of a module run, for a replacement to call."""
    route = _ROUTES.get(module)
    return module.forward if route is None else route.forward()


def is_unpatched(module: nn.Module) -> bool:
    """Whether nobody but this package has replaced a module's ``forward``, as
    offloading does."""
    route = _ROUTES.get(module)
    if route is None:
        return "forward" not in vars(module)
    return route.in_instance is None


def _routed(module: nn.Module) -> _Route:
    route = _Route(module)
    by_thread, original = route.by_thread, route.original
    get_ident = threading.get_ident

    def forward(*args: Any, **kwargs: Any) -> Any:
        forwards = by_thread.get(get_ident())
        return (forwards[-1] if forwards else original)(*args, **kwargs)

    # Modules watch assignments to their attributes, but not their dictionary.
    vars(module)["forward"] = forward
    return route


def _restore(module: nn.Module, route: _Route) -> None:
    if route.in_instance is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = route.in_instance
