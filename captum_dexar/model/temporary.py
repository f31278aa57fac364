"""What this package puts on a module for a while, and copies of the module lack.

A model can be copied or pickled at any time, for instance between two steps of a
stream. The copy has to be the user's own model.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captum_dexar.model.threads import kept_free_in_forks
from torch import nn

_LOCK = kept_free_in_forks(threading.RLock())
_GETSTATE = "__getstate__"
# Part of the names of the dictionaries in which a module keeps hooks and their options.
_HOOKS = "_hooks"
_NOTHING = object()


class Temporary:
    """A hook, or an attribute of the instance, that copies of its module lack.

    Attributes:
        replaces (Any): the attribute of the instance that it stands in place of; None
            if there was none
    """

    replaces: Any = None


class _StateOfCopies(Temporary):
    """The ``__getstate__`` of a module that holds something temporary.

    ``copy.copy``, ``copy.deepcopy`` and ``pickle`` all ask for it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.replaces = vars(module).get(_GETSTATE)
        self.original = getattr(module, _GETSTATE, None)
        self.num_users = 0

    def __call__(self) -> Any:
        # Before Python 3.11 objects have no such method unless a class defines it.
        state = vars(self.module) if self.original is None else self.original()
        if not isinstance(state, dict):
            return state
        # Copied at once, like the hooks below: other threads change both meanwhile.
        own = {name: _users(value) for name, value in dict(state).items()}
        # Of the dictionaries' own types: the order of hooks matters.
        hooks = {
            name: value.copy()
            for name, value in own.items()
            if _HOOKS in name and isinstance(value, dict)
        }
        ours = {
            key
            for registered in hooks.values()
            for key, hook in registered.items()
            if isinstance(hook, Temporary)
        }
        for registered in hooks.values():
            for key in ours & registered.keys():
                del registered[key]
        own |= hooks
        return {name: value for name, value in own.items() if value is not _NOTHING}


def _users(value: Any) -> Any:
    """What the user has in an attribute."""
    if not isinstance(value, Temporary):
        return value
    return _NOTHING if value.replaces is None else value.replaces


@contextmanager
def temporarily(*modules: nn.Module) -> Iterator[None]:
    """Within it what is :class:`Temporary` on some modules is left out of copies."""
    with _LOCK:
        states = [_state_of_copies(module) for module in modules]
        for state in states:
            state.num_users += 1
    try:
        yield
    finally:
        with _LOCK:
            for state in states:
                state.num_users -= 1
                attributes = vars(state.module)
                if state.num_users or attributes.get(_GETSTATE) is not state:
                    continue
                if state.replaces is None:
                    del attributes[_GETSTATE]
                else:
                    attributes[_GETSTATE] = state.replaces


def _state_of_copies(module: nn.Module) -> _StateOfCopies:
    state = vars(module).get(_GETSTATE)
    if not isinstance(state, _StateOfCopies):
        state = _StateOfCopies(module)
        # Modules watch assignments to their attributes, but not their dictionary.
        vars(module)[_GETSTATE] = state
    return state
