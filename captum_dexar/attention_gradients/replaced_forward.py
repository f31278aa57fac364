"""Modules that one thread runs otherwise than the others."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


class _Route:
    """What the calls of a module go to.

    Attributes:
        original (Callable): the module's own
        in_instance (Callable or None): what stood in the instance
        by_thread (dict): replacements by thread, the innermost last
    """

    def __init__(self, module: nn.Module) -> None:
        self.original: Forward = module.forward
        self.in_instance: Forward | None = vars(module).get("forward")
        self.by_thread: dict[int, list[Forward]] = {}

    def forward(self) -> Forward:
        """What a call from this thread goes to."""
        forwards = self.by_thread.get(threading.get_ident())
        return forwards[-1] if forwards else self.original


# Of the modules with a replacement at work.
_ROUTES: dict[nn.Module, _Route] = {}
_LOCK = threading.Lock()


@contextmanager
def replaced_forward(replacements: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Within it this thread's calls of some modules go to functions of ours.

    A hook would cost a module the fast way through its call, at every call; and what it
    replaces, the module would still compute.

    Args:
        replacements (Mapping): what is called in place of a module's ``forward``. Other
            threads run the module itself; of two nested replacements the inner one is
            called.
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
    """What this thread's calls of a module go to, to be called by a replacement."""
    route = _ROUTES.get(module)
    return module.forward if route is None else route.forward()


def is_itself(module: nn.Module) -> bool:
    """Whether nobody but this package has put something in place of a module's
    ``forward``, as offloading does."""
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

    # In the instance, and not by assignment, which modules watch.
    vars(module)["forward"] = forward
    return route


def _restore(module: nn.Module, route: _Route) -> None:
    if route.in_instance is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = route.in_instance
