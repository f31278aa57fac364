"""Whether users' hooks change what modules compute, or only look at it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from captum_dexar.model.changes import users_hook
from captum_dexar.model.thread_hooks import forward_hooks, forward_pre_hooks
from torch import nn, Tensor

Identities = list[tuple[int, int]]


@contextmanager
def noted_effects(root: nn.Module) -> Iterator[list[str]]:
    """Collects the hooks inside a module that changed something, in words.

    Inputs and outputs before a module's first hook are compared with those after its
    last one: the same tensors, and not written into. Hooks of backward passes, and
    hooks for all modules, are taken to change something.

    Args:
        root (nn.Module): the module
    """
    effects: list[str] = []
    before: dict[nn.Module, list[Identities]] = {}
    names: dict[nn.Module, str] = {}
    for name, module in root.named_modules():
        hook = users_hook(module)
        if hook is None:
            continue
        names[module] = f"a {hook} on {name or type(module).__name__}"
        if "forward" not in hook or "all modules" in hook:
            effects.append(names[module])

    def note(module: nn.Module, *values: Any) -> None:
        before.setdefault(module, []).append(_identities(values[-1:]))

    def note_inputs(module: nn.Module, args: Any, kwargs: Any) -> None:
        before.setdefault(module, []).append(_identities((args, kwargs)))

    def compare(module: nn.Module, *values: Any) -> None:
        if before[module].pop() != _identities(values[-1:]):
            effects.append(names[module])

    def compare_inputs(module: nn.Module, args: Any, kwargs: Any) -> None:
        if before[module].pop() != _identities((args, kwargs)):
            effects.append(names[module])

    def of_all(hook: Callable[..., Any]) -> dict[nn.Module, Callable[..., Any]]:
        return dict.fromkeys(names, hook)

    with (
        forward_pre_hooks(of_all(note_inputs), with_kwargs=True, prepend=True),
        forward_pre_hooks(of_all(compare_inputs), with_kwargs=True),
        forward_hooks(of_all(note), prepend=True),
        forward_hooks(of_all(compare)),
    ):
        yield effects


def _identities(values: Any) -> Identities:
    """The tensors among some values, and how often they were written into."""
    if isinstance(values, Tensor):
        return [(id(values), values._version)]
    if isinstance(values, dict):
        values = list(values.values())
    if not isinstance(values, (tuple, list)):
        return []
    return [identity for value in values for identity in _identities(value)]
