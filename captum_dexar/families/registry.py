"""The registered adapters: looked up by model configuration or by processor."""

from typing import Any

from captum_dexar.compatibility import missing_model
from captum_dexar.families.adapters import ADAPTERS
from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.generic import GenericAdapter
from captum_dexar.families.refused import refuse_model, refuse_processor

_ADAPTERS: list[FamilyAdapter] = [adapter() for adapter in ADAPTERS]
_GENERIC = GenericAdapter()


def register(adapter: FamilyAdapter) -> None:
    """Adds a family; an adapter takes precedence over those registered before it.

    Args:
        adapter (FamilyAdapter): an instance of the family's adapter

    Raises:
        TypeError: It is not an adapter.
    """
    if not isinstance(adapter, FamilyAdapter):
        raise TypeError(
            f"Expected an instance of a FamilyAdapter, got {type(adapter).__name__}."
        )
    _ADAPTERS.insert(0, adapter)


def known_families() -> tuple[FamilyAdapter, ...]:
    """All registered adapters, in order of precedence."""
    return tuple(_ADAPTERS)


def adapter_for_config(config: Any) -> FamilyAdapter:
    """The adapter of a model's family; the generic one if the family is unknown.

    Raises:
        TypeError: The configuration is not of a supported vision-language model, or
            not with the installed version of transformers.
    """
    model_type = getattr(config, "model_type", None)
    missing = missing_model(str(model_type))
    if missing is not None:
        raise TypeError(missing)
    for adapter in _ADAPTERS:
        if adapter.matches(config):
            if type(adapter) in ADAPTERS:
                # Some models of a family may be refused, but not the user's own family.
                refuse_model(config)
            return adapter
    refuse_model(config)
    if _GENERIC.matches(config):
        return _GENERIC
    known = ", ".join(sorted({t for adapter in _ADAPTERS for t in adapter.model_types}))
    raise TypeError(
        f"Models of type {model_type!r} are not supported. Supported are the "
        f"vision-language models of type {known}."
    )


def adapter_for_processor(processor: Any) -> FamilyAdapter:
    """The adapter of a processor's family; the generic one if the family is unknown.

    Raises:
        TypeError: The processor is not of a supported vision-language model.
    """
    names = {base.__name__ for base in type(processor).__mro__}
    for adapter in _ADAPTERS:
        if names & set(adapter.processor_types):
            return adapter
    refuse_processor(processor)
    if "ProcessorMixin" in names and hasattr(processor, "image_token_id"):
        return _GENERIC
    known = ", ".join(
        sorted({t for adapter in _ADAPTERS for t in adapter.processor_types})
    )
    raise TypeError(
        f"Expected the processor of a supported vision-language model ({known}), got "
        f"{type(processor).__name__}."
    )
