"""What a model may be wrapped in: compiled code, several processes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from captum_dexar.model.threads import kept_free_in_forks
from torch import nn
from transformers import GenerationMixin

# By name, so that nothing of torch.distributed has to be imported.
REFUSED = {
    "DataParallel": "copies the model to each device",
    "DistributedDataParallel": "synchronises processes in every pass",
    "FullyShardedDataParallel": "spreads the weights over processes",
    "FSDPModule": "spreads the weights over processes",
}

# An attribute of what torch.compile makes of a function.
_COMPILED = "_torchdynamo_orig_callable"
# Parts of a model that may generate in its place, by name.
INNER = ("text_decoder", "language_model", "text_model")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile(model)``, which computes the same.

    Compiled code is not made anew for hooks, so it can't be watched.
    """
    while "_orig_mod" in model._modules:
        model = model.get_submodule("_orig_mod")
    return model


def generating(model: nn.Module) -> nn.Module:
    """The module whose passes ``model.generate`` runs: an adapter's wrapper may call
    its base model, and BLIP and BLIP-2 their text models."""
    for module in model.modules():
        if issubclass(type(module), GenerationMixin):
            kind: Any = type(module)
            is_own = kind.generate is not GenerationMixin.generate
            inner = [getattr(module, name, None) for name in INNER] if is_own else []
            return next((m for m in inner if isinstance(m, GenerationMixin)), module)
    return model


def check_not_parallel(model: nn.Module) -> None:
    """Raises TypeError for a model that is wrapped for training on several devices."""
    for module in model.modules():
        for base in type(module).__mro__:
            if base.__name__ in REFUSED and base.__module__.startswith("torch."):
                raise TypeError(
                    f"The model is, or holds, a {base.__name__}, which "
                    f"{REFUSED[base.__name__]}: it can't be explained. Pass the model "
                    "itself (model.module), with all weights on this process."
                )


_LOCK = kept_free_in_forks(threading.Lock())
# How many blocks are running uncompiled, and what switched compiled code off.
_RUNNING: list[Any] = []


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Within it a model that is compiled in place, or in part, runs as it was written.

    Compiled code is not made anew for hooks and would pass by them. In other threads it
    is not used meanwhile either; results are the same.
    """
    if not any(map(_is_compiled, model.modules())):
        yield
        return
    with _LOCK:
        stance: Any = _RUNNING[0] if _RUNNING else None
        if stance is None:
            stance = torch.compiler.set_stance("force_eager")
            stance.__enter__()
        _RUNNING.append(stance)
    try:
        yield
    finally:
        with _LOCK:
            _RUNNING.pop()
            if not _RUNNING:
                stance.__exit__(None, None, None)


def _is_compiled(module: nn.Module) -> bool:
    kind: Any = type(module)
    return (
        "_orig_mod" in module._modules
        or module._compiled_call_impl is not None
        or hasattr(vars(module).get("forward"), _COMPILED)
        or _has_compiled_methods(kind)
    )


@lru_cache(maxsize=256)
def _has_compiled_methods(kind: type) -> bool:
    return any(
        hasattr(method, _COMPILED)
        for base in kind.__mro__
        for method in vars(base).values()
    )
