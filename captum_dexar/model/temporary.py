"""What this package puts on a module for a while, and copies of the module lack.

A model can be copied or pickled at any time, for instance between two steps of a
stream. The copy has to be the user's own model.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_LOCK = threading.RLock()
_GETSTATE = "__getstate__"


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
        return {
            name: _without_temporary(name, value)
            for name, value in state.items()
            if not isinstance(value, Temporary) or value.replaces is not None
        }


def _without_temporary(name: str, value: Any) -> Any:
    if isinstance(value, Temporary):
        return value.replaces
    if name.endswith("_hooks") and isinstance(value, dict):
        kept = value.copy()
        for key, hook in value.items():
            if isinstance(hook, Temporary):
                del kept[key]
        return kept
    return value


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
