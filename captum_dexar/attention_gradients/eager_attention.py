"""Eager attention in one thread, whatever a model's configuration says."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captum_dexar.model.threads import kept_free_in_forks, this_thread
from torch import nn
from transformers import PretrainedConfig

_NAME = "_attn_implementation"
_LOCK = kept_free_in_forks(threading.Lock())
# Configurations that are to say "eager", by thread and then by their ids; those of
# nested blocks in order.
_EAGER: dict[object, list[set[int]]] = {}
# What the classes of configurations define themselves.
_ORIGINALS: dict[type, Any] = {}


class _ThreadSetting:
    """The property of a configuration's class, but in threads within
    :func:`eager_attention`."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        if config is None:
            return self
        for ids in _EAGER.get(this_thread(), ()):
            if id(config) in ids:
                return "eager"
        return self.original.__get__(config, owner)

    def __set__(self, config: Any, value: Any) -> None:
        self.original.__set__(config, value)


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Within it every configuration of ``model`` says eager attention, in this thread.

    Models read the setting anew in every pass, for their masks as for their attention.
    It is a property of the configurations' classes, which looks at the thread for as
    long as any thread needs it: no configuration is changed, and other threads read
    what it says.
    """
    configs = [
        module.config
        for module in model.modules()
        if isinstance(getattr(module, "config", None), PretrainedConfig)
    ]
    thread = this_thread()
    with _LOCK:
        for owner in {base for config in configs for base in type(config).__mro__}:
            original = vars(owner).get(_NAME)
            if isinstance(original, property):
                _ORIGINALS[owner] = original
                setattr(owner, _NAME, _ThreadSetting(original))
        _EAGER.setdefault(thread, []).append({id(config) for config in configs})
    try:
        yield
    finally:
        with _LOCK:
            _EAGER[thread].pop()
            if not _EAGER[thread]:
                del _EAGER[thread]
            if not _EAGER:
                for owner, original in _ORIGINALS.items():
                    setattr(owner, _NAME, original)
                _ORIGINALS.clear()
