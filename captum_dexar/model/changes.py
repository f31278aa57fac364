"""What users change in a model: hooks, replaced methods, modules of their own.

Most of what is computed again, or taken from a record, is only right for modules that
do what their class says, to each position alone. Hooks and replaced methods may do
anything.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeGuard

from captum_dexar.model.adapters import depends_on_ids, keeps_positions_apart
from torch import nn
from torch.nn.modules import module as torch_module

# Packages whose modules and hooks are known to keep positions apart, and whose
# attention functions are known to return probabilities times values.
LIBRARIES = {
    "accelerate",
    "awq",
    "bitsandbytes",
    "captum_dexar",
    "compressed_tensors",
    "flash_attn",
    "flash_attn_interface",
    "gptqmodel",
    "hqq",
    "kernels",
    "optimum",
    "peft",
    "torch",
    "torchao",
    "transformers",
    "transformers_modules",
}
HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
_HOOKS_FOR_ALL: dict[str, Mapping[int, Any]] = {
    name: getattr(torch_module, f"_global{name}", {}) for name in HOOKS
}


def users_hook(module: nn.Module) -> str | None:
    """The kind of a hook that a user has registered on a module, or None.

    Hooks for all modules count as each module's.
    """
    attributes = vars(module)
    for name, kind in HOOKS.items():
        hooks = attributes.get(name)
        # Copied at once: other threads register hooks meanwhile.
        if hooks and any(map(_is_users, list(hooks.values()))):
            return kind
        every = _HOOKS_FOR_ALL[name]
        if every and any(map(_is_users, list(every.values()))):
            return f"{kind} for all modules"
    return None


def is_offloading(module: nn.Module) -> bool:
    """Whether accelerate has replaced a module's ``forward``, to load its weights."""
    return hasattr(module, "_hf_hook")


def has_plain_weight(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear layer that multiplies by a parameter as it is.

    A weight that is computed (pruned, normalised, parametrised) or of another kind of
    tensor (quantised, distributed) is not.
    """
    weight = module._parameters.get("weight")
    return type(module) is nn.Linear and type(weight) is nn.Parameter


def has_own_forward(module: nn.Module) -> bool:
    """Whether nobody has replaced a module's ``forward``."""
    return "forward" not in vars(module)


def users_change(
    root: nn.Module,
    is_unpatched: Callable[[nn.Module], bool] = has_own_forward,
    with_hooks: bool = True,
) -> str | None:
    """What a user has changed in a module or inside it, in words, or None.

    Args:
        root (nn.Module): the module
        with_hooks (bool, optional): whether hooks count. Default: True
        is_unpatched (Callable, optional): whether a module's ``forward`` is its own.
            Default: :func:`has_own_forward`
    """
    for name, module in root.named_modules():
        name = name or type(module).__name__
        hook = users_hook(module) if with_hooks else None
        if hook is not None:
            return f"a {hook} on {name}"
        kind = type(module)
        if not _is_of_library(kind) or not keeps_positions_apart(kind):
            return f"{name}, a {kind.__module__}.{kind.__qualname__}"
        if not _is_of_library(kind.forward):
            return f"another forward method of {kind.__name__}"
        if not is_unpatched(module) and not is_offloading(module):
            return f"another forward method on {name}"
        if depends_on_ids(module):
            return f"{name}, an activated LoRA"
    return None


def _is_users(hook: Any) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    return not _is_of_library(hook)


def _is_of_library(thing: Any) -> bool:
    """Whether a class or function was defined in one of :data:`LIBRARIES`."""
    return _is_library(str(getattr(thing, "__module__", "")))


# A model's modules, which are gone through for every answer, come from few files.
@lru_cache(maxsize=256)
def _is_library(module: str) -> bool:
    return module.partition(".")[0] in LIBRARIES
