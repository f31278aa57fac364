"""Intercepting a model's attention calls, and replacing modules, in one thread."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from captum_dexar.attention_gradients.attention_call import (
    AttentionCall,
    AttentionFunction,
)
from captum_dexar.model.temporary import temporarily, Temporary
from captum_dexar.model.threads import kept_free_in_forks, this_thread
from torch import nn
from transformers.modeling_utils import AttentionInterface

Tap = Callable[[AttentionCall], Any]
Forward = Callable[..., Any]


class _Interception(NamedTuple):
    layer_of: Mapping[nn.Module, int]
    cross_attention: Collection[nn.Module]
    tap: Tap


_LOCK = kept_free_in_forks(threading.Lock())
# Active interceptions by thread, the innermost last.
_INTERCEPTIONS: dict[object, list[_Interception]] = {}
# Our wrapper of ``AttentionInterface.get_interface``, and what it wraps.
_WRAPPER: Forward | None = None
_ORIGINAL: Forward = AttentionInterface.get_interface


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
    thread = this_thread()
    with _LOCK:
        if _WRAPPER is None:
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
                _unpatch()


def _patch() -> None:
    global _ORIGINAL, _WRAPPER
    # Whatever is there now is put back later, even somebody else's patch.
    original = _ORIGINAL = AttentionInterface.get_interface

    def get_interface(
        self: AttentionInterface, attn_implementation: str, default: AttentionFunction
    ) -> AttentionFunction:
        attention_function: AttentionFunction = original(
            self, attn_implementation, default
        )
        interceptions = _INTERCEPTIONS.get(this_thread())
        # A wrapper that somebody else has kept must not intercept a second time.
        if not interceptions or _WRAPPER is not get_interface:
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

    AttentionInterface.get_interface = _WRAPPER = get_interface


def _unpatch() -> None:
    global _WRAPPER
    # A patch that somebody has put over ours in the meantime stays.
    if AttentionInterface.get_interface is _WRAPPER:
        AttentionInterface.get_interface = _ORIGINAL
    _WRAPPER = None


class _RoutedForward(Temporary):
    """Takes the place of a module's ``forward``; what it runs depends on the thread.

    Attributes:
        replaces (Callable or None): a ``forward`` found in the instance's attributes
        original (Callable): the module's own ``forward``
        by_thread (dict): replacements by thread, the innermost last
    """

    def __init__(self, module: nn.Module) -> None:
        self.replaces = vars(module).get("forward")
        # For its signature, which some callers ask for.
        self.original = self.__wrapped__ = module.forward
        self.by_thread: dict[object, list[Forward]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forwards = self.by_thread.get(this_thread())
        return (forwards[-1] if forwards else self.original)(*args, **kwargs)

    def __reduce__(self) -> Any:
        # Somebody may have kept it: a copy is the ``forward`` of the module's copy.
        return _itself, (self.original,)


def _itself(forward: Forward) -> Forward:
    return forward


@contextmanager
def replaced_forward(replacements: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Replaces the ``forward`` of some modules for this thread's calls.

    Unlike a hook it keeps the fast path of a module's call, and the module does not
    compute what is replaced.

    Args:
        replacements (Mapping): what is called in place of each module's ``forward``.
            Other threads run the module itself, as copies of it do; of two nested
            replacements the inner one is called.
    """
    thread = this_thread()
    with temporarily(*replacements):
        routes: dict[nn.Module, _RoutedForward] = {}
        with _LOCK:
            for module, forward in replacements.items():
                routes[module] = route = _route(module)
                route.by_thread.setdefault(thread, []).append(forward)
        try:
            yield
        finally:
            with _LOCK:
                for module, route in routes.items():
                    route.by_thread[thread].pop()
                    if not route.by_thread[thread]:
                        del route.by_thread[thread]
                    if not route.by_thread:
                        _restore(module, route)


def forward_of(module: nn.Module) -> Forward:
    """What this thread's calls of a module run, for a replacement to call."""
    forward: Forward = module.forward
    if not isinstance(forward, _RoutedForward):
        return forward
    forwards = forward.by_thread.get(this_thread())
    return forwards[-1] if forwards else forward.original


def is_unpatched(module: nn.Module) -> bool:
    """Whether nobody but this package has replaced a module's ``forward``, as
    offloading does."""
    forward = vars(module).get("forward")
    if isinstance(forward, _RoutedForward):
        return forward.replaces is None
    return forward is None


def _route(module: nn.Module) -> _RoutedForward:
    route = vars(module).get("forward")
    if not isinstance(route, _RoutedForward):
        route = _RoutedForward(module)
        # Modules watch assignments to their attributes, but not their dictionary.
        vars(module)["forward"] = route
    return route


def _restore(module: nn.Module, route: _RoutedForward) -> None:
    attributes = vars(module)
    if attributes.get("forward") is not route:
        # What somebody has put there in the meantime stays.
        return
    if route.replaces is None:
        del attributes["forward"]
    else:
        attributes["forward"] = route.replaces
