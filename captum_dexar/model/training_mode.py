"""Modules that compute something else in training mode: dropout, batch norm and others.

Many modules are in training mode without effect. Weight norm and other
parametrisations, for example, come in it, whatever the mode of the model.
"""

import functools
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

import torch
from torch import nn

_NAME = "training"


def in_training(model: nn.Module) -> str | None:
    """What of a model is in training mode and depends on it, in words, or None."""
    if all(not module.training for module in model.modules()):
        return None
    names = [
        f"{name} ({type(module).__name__})" if name else type(module).__name__
        for name, module in model.named_modules()
        if module.training and _depends_on_mode(module)
    ]
    others = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + others if names else None


def _depends_on_mode(module: nn.Module) -> bool:
    """Whether the code of a module, or of a hook on it, reads its mode."""
    if isinstance(module, torch.jit.ScriptModule) or _reads_mode(type(module)):
        return True
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(map(_callable_reads_mode, [*hooks, vars(module).get("forward")]))


def _callable_reads_mode(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return _function_reads_mode(function)
    return callable(function) and _reads_mode(type(function))


def _reads_mode(kind: Any) -> bool:
    """Whether a method or property of a class, or of its bases, reads ``training``."""
    bases = [base for base in kind.__mro__ if base not in nn.Module.__mro__]
    attributes = [value for base in bases for value in vars(base).values()]
    return any(map(_function_reads_mode, attributes))


def _function_reads_mode(attribute: Any) -> bool:
    functions = [attribute]
    if isinstance(attribute, property):
        functions = [attribute.fget, attribute.fset]
    return any(
        _NAME in code.co_names or _NAME in code.co_consts
        for function in functions
        for code in _codes(function)
    )


def _codes(function: Any) -> Iterator[CodeType]:
    """The code of a function, of what it wraps, and of the functions within it."""
    found = []
    while function is not None:
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)
        found += [code] if isinstance(code, CodeType) else []
        function = getattr(function, "__wrapped__", None)
    while found:
        code = found.pop()
        found += [one for one in code.co_consts if isinstance(one, CodeType)]
        yield code
