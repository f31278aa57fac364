"""The families that are known, by the ``model_type`` of their configuration."""

from typing import Any

from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.llava import LlavaAdapter

_ADAPTERS: tuple[FamilyAdapter, ...] = (LlavaAdapter(),)


def adapter_for_config(config: Any) -> FamilyAdapter:
    """The adapter of a model's family.

    Raises:
        TypeError: the configuration is of no supported vision-language model.
    """
    model_type = getattr(config, "model_type", None)
    for adapter in _ADAPTERS:
        if model_type in adapter.model_types:
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
