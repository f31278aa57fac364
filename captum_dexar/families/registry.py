"""The families that are known, by the ``model_type`` of their configuration."""

from typing import Any

from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.llava import LlavaAdapter

_ADAPTERS: list[FamilyAdapter] = [LlavaAdapter()]


def register(adapter: FamilyAdapter) -> None:
    """Makes a family known; a later one goes before an earlier one of its types.

    Args:
        adapter (FamilyAdapter): its facts

    Raises:
        TypeError: it is no adapter.
    """
    if not isinstance(adapter, FamilyAdapter):
        raise TypeError(
            f"Expected an instance of a FamilyAdapter, got {type(adapter).__name__}."
        )
    _ADAPTERS.insert(0, adapter)


def known_families() -> tuple[FamilyAdapter, ...]:
    """All adapters, in the order in which they are asked."""
    return tuple(_ADAPTERS)


def adapter_for_config(config: Any) -> FamilyAdapter:
    """The adapter of a model's family.

    Raises:
        TypeError: the configuration is of no supported vision-language model.
    """
    model_type = getattr(config, "model_type", None)
    for adapter in _ADAPTERS:
        if adapter.matches(config):
            return adapter
    known = ", ".join(sorted(t for adapter in _ADAPTERS for t in adapter.model_types))
    raise TypeError(
        f"Models of type {model_type!r} are not supported. Supported are the "
        f"vision-language models of type {known}."
    )


def adapter_for_processor(processor: Any) -> FamilyAdapter:
    """The adapter of a processor's family.

    Raises:
        TypeError: the processor is of no supported vision-language model.
    """
    names = {base.__name__ for base in type(processor).__mro__}
    for adapter in _ADAPTERS:
        if names & set(adapter.processor_types):
            return adapter
    known = ", ".join(
        sorted(t for adapter in _ADAPTERS for t in adapter.processor_types)
    )
    raise TypeError(
        f"Expected the processor of a supported vision-language model ({known}), got "
        f"{type(processor).__name__}."
    )
