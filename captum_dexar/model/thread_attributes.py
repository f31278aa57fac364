"""Attributes of modules that have a value of their own in one thread."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from captum_dexar.model.threads import kept_free_in_forks, this_thread
from torch import nn

_LOCK = kept_free_in_forks(threading.Lock())
# Values by thread, module and name; those of nested blocks in order.
_Key = tuple[object, nn.Module, str]
_VALUES: dict[_Key, list[Any]] = {}
# How many blocks need a class to have such an attribute.
_USERS: dict[tuple[type, str], int] = {}
_NOTHING = object()


class _ThreadAttribute:
    """An attribute of a class, whose values lie in the instances' dictionaries, or in
    ``_VALUES`` for threads that have values of their own."""

    def __init__(self, name: str, default: Any) -> None:
        self.name = name
        # What the class itself has by that name.
        self.default = default

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        if module is None:
            return self
        values = _VALUES.get((this_thread(), module, self.name))
        if values:
            return values[-1]
        value = vars(module).get(self.name, self.default)
        if value is _NOTHING:
            raise AttributeError(self.name)
        return value

    def __set__(self, module: nn.Module, value: Any) -> None:
        values = _VALUES.get((this_thread(), module, self.name))
        if values:
            values[-1] = value
        else:
            vars(module)[self.name] = value

    def __delete__(self, module: nn.Module) -> None:
        try:
            del vars(module)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None


@contextmanager
def thread_attributes(names: Mapping[nn.Module, str]) -> Iterator[None]:
    """Within it an attribute of some modules has a value of its own in this thread.

    It begins with the value that the module has, and is forgotten afterwards.

    Args:
        names (Mapping): the name of each module's attribute, which is neither a
            parameter, a buffer nor a module
    """
    thread = this_thread()
    keys: list[_Key] = [(thread, module, name) for module, name in names.items()]
    with _LOCK:
        for key in keys:
            _, module, name = key
            _VALUES.setdefault(key, []).append(getattr(module, name))
            users = _USERS.setdefault((type(module), name), 0)
            if not users:
                default = vars(type(module)).get(name, _NOTHING)
                setattr(type(module), name, _ThreadAttribute(name, default))
            _USERS[type(module), name] = users + 1
    try:
        yield
    finally:
        with _LOCK:
            for key in keys:
                _, module, name = key
                _VALUES[key].pop()
                if not _VALUES[key]:
                    del _VALUES[key]
                _USERS[type(module), name] -= 1
                if _USERS[type(module), name]:
                    continue
                del _USERS[type(module), name]
                default = vars(type(module))[name].default
                if default is _NOTHING:
                    delattr(type(module), name)
                else:
                    setattr(type(module), name, default)
