"""Hooks on modules that act in one thread only.

Other threads may run the same model at the same time. Their passes are neither taken
for those of the explaining thread nor changed. No other file of this package registers
hooks.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, ExitStack
from typing import Any

from captum_dexar.model.temporary import temporarily, Temporary
from captum_dexar.model.threads import kept_free_in_forks, this_thread
from torch import nn

Hook = Callable[..., Any]


class _ThreadHook(Temporary):
    """A hook that does nothing in other threads than the one that made it."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.thread = this_thread()

    # While a hook is being removed another thread may call it with fewer arguments.
    def __call__(self, module: nn.Module, *args: Any) -> Any:
        if this_thread() == self.thread:
            return self.hook(module, *args)
        return None


@contextmanager
def forward_hooks(
    hooks: Mapping[nn.Module, Hook],
    *,
    with_kwargs: bool = False,
    prepend: bool = False,
) -> Iterator[None]:
    """Runs hooks after the forward passes of modules, in this thread.

    Args:
        hooks (Mapping): a hook for each module, as
            ``nn.Module.register_forward_hook`` takes it
        with_kwargs, prepend (bool, optional): as there. Default: False
    """
    options = {"with_kwargs": with_kwargs, "prepend": prepend}
    with _registered(hooks, "register_forward_hook", options):
        yield


@contextmanager
def forward_pre_hooks(
    hooks: Mapping[nn.Module, Hook],
    *,
    with_kwargs: bool = False,
    prepend: bool = False,
) -> Iterator[None]:
    """Runs hooks before the forward passes of modules, in this thread.

    Args:
        hooks (Mapping): a hook for each module, as
            ``nn.Module.register_forward_pre_hook`` takes it
        with_kwargs, prepend (bool, optional): as there. Default: False
    """
    options = {"with_kwargs": with_kwargs, "prepend": prepend}
    with _registered(hooks, "register_forward_pre_hook", options):
        yield


@contextmanager
def _registered(
    hooks: Mapping[nn.Module, Hook], register: str, options: Mapping[str, bool]
) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(temporarily(*hooks))
        for module, hook in hooks.items():
            # Of the class: within :func:`only_in_this_thread` an instance has its own.
            handle = getattr(type(module), register)(
                module, _ThreadHook(hook), **options
            )
            stack.callback(handle.remove)
        yield


class _Register(Temporary):
    """A module's method to register hooks, which act in one thread only."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module = module
        self.name = name
        self.replaces = vars(module).get(name)
        self.original = getattr(module, name)
        self.threads: list[object] = []

    def __call__(self, hook: Hook, *args: Any, **kwargs: Any) -> Any:
        # The hooks that transformers installs on the way are there to stay.
        if this_thread() in self.threads and _is_captums(hook):
            hook = _ThreadHook(hook)
        return self.original(hook, *args, **kwargs)


def _is_captums(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).startswith("captum.")


_LOCK = kept_free_in_forks(threading.Lock())
_REGISTERING = ("register_forward_hook", "register_forward_pre_hook")


@contextmanager
def only_in_this_thread(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it the hooks that Captum registers on modules in this thread act in it
    only."""
    modules, thread = list(modules), this_thread()
    with temporarily(*modules):
        with _LOCK:
            registers = [_register(m, name) for m in modules for name in _REGISTERING]
            for register in registers:
                register.threads.append(thread)
        try:
            yield
        finally:
            with _LOCK:
                for register in registers:
                    _release(register, thread)


def _register(module: nn.Module, name: str) -> _Register:
    register = vars(module).get(name)
    if not isinstance(register, _Register):
        register = _Register(module, name)
        vars(module)[name] = register
    return register


def _release(register: _Register, thread: object) -> None:
    register.threads.remove(thread)
    attributes = vars(register.module)
    if register.threads or attributes.get(register.name) is not register:
        return
    if register.replaces is None:
        del attributes[register.name]
    else:
        attributes[register.name] = register.replaces
