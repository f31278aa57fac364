"""An argument of ``generate``, to be given in a call or in the generation config."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.right_or_refused.setting import NUM_TOKENS, Setting
from torch import nn

Made = Mapping[str, Any]

GREEDY: Made = {"max_new_tokens": NUM_TOKENS, "do_sample": False}


@dataclass(frozen=True, eq=False)
class Argument:
    """One or more arguments of ``generate``.

    Attributes:
        name: in the table
        make: the arguments, anew for every call, since some have a state
        named: what a refusal has to say, as a regular expression
        is_random: whether the answers of a batch differ from those of its prompts
        on_config: whether they are set in ``model.generation_config`` instead
        base: further arguments of the call
        inputs: the model's inputs that it changes, if any
    """

    name: str
    make: Callable[[Setting], Made]
    named: str
    is_random: bool = False
    on_config: bool = False
    base: Made | None = None
    inputs: Callable[[Setting], Made] | None = None

    def call(self, setting: Setting) -> dict[str, Any]:
        """The arguments of one call."""
        base = dict(GREEDY if self.base is None else self.base)
        return base if self.on_config else {**base, **self.make(setting)}

    def configured(self, setting: Setting, model: nn.Module) -> Any:
        """The model, or a copy of it whose generation config holds them."""
        if not self.on_config:
            return model
        copied: Any = copy.deepcopy(model)
        for name, value in self.make(setting).items():
            setattr(copied.generation_config, name, value)
        return copied

    def in_config(self) -> "Argument":
        """The same, set in the generation config."""
        return replace(self, name=f"{self.name} in the config", on_config=True)


def values(
    name: str = "", named: str = "", base: Made | None = None, **given: Any
) -> Argument:
    """Arguments that are the same for every model."""
    return Argument(
        name or ", ".join(f"{key}={value!r}" for key, value in given.items()),
        lambda setting: given,
        named or "|".join(given),
        bool({**(base or {}), **given}.get("do_sample")),
        base=base,
    )


def made(
    name: str,
    make: Callable[[Setting], Made],
    named: str = "",
    base: Made | None = None,
) -> Argument:
    """Arguments that depend on the model or the prompt; ``name`` begins with one."""
    return Argument(name, make, named or name.split("=")[0].split(",")[0], base=base)


def model_input(name: str, make: Callable[[Setting], Any]) -> Argument:
    """An input of the model that is given among the arguments."""

    def given(setting: Setting) -> Made:
        return {name: make(setting)}

    return Argument(name, given, name, inputs=given)
