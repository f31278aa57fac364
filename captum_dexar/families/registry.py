"""The families that are known, by the ``model_type`` of their configuration."""

from typing import Any

from captum_dexar.families.adapters.chameleon import ChameleonAdapter
from captum_dexar.families.adapters.florence2 import Florence2Adapter
from captum_dexar.families.adapters.fuyu import FuyuAdapter
from captum_dexar.families.adapters.gemma import Gemma3Adapter, Gemma4Adapter
from captum_dexar.families.adapters.idefics import Idefics3Adapter
from captum_dexar.families.adapters.internvl import (
    AyaVisionAdapter,
    Cohere2VisionAdapter,
    InternVLAdapter,
    Ovis2Adapter,
)
from captum_dexar.families.adapters.lfm2_vl import Lfm2VlAdapter
from captum_dexar.families.adapters.llama4 import Llama4Adapter
from captum_dexar.families.adapters.llava import LlavaAdapter
from captum_dexar.families.adapters.llava_next import (
    LlavaNextAdapter,
    LlavaOnevisionAdapter,
)
from captum_dexar.families.adapters.mllama import MllamaAdapter
from captum_dexar.families.adapters.paligemma import PaliGemmaAdapter
from captum_dexar.families.adapters.pixtral import PixtralAdapter
from captum_dexar.families.adapters.qwen_vl import (
    Glm4vAdapter,
    QwenVLAdapter,
    VideoLlama3Adapter,
)
from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.generic import GenericAdapter
from captum_dexar.families.refused import refuse_model, refuse_processor

_ADAPTERS: list[FamilyAdapter] = [
    PixtralAdapter(),
    LlavaAdapter(),
    Idefics3Adapter(),
    Gemma3Adapter(),
    Gemma4Adapter(),
    Lfm2VlAdapter(),
    Llama4Adapter(),
    QwenVLAdapter(),
    Glm4vAdapter(),
    VideoLlama3Adapter(),
    PaliGemmaAdapter(),
    Florence2Adapter(),
    MllamaAdapter(),
    FuyuAdapter(),
    ChameleonAdapter(),
    LlavaNextAdapter(),
    LlavaOnevisionAdapter(),
    InternVLAdapter(),
    AyaVisionAdapter(),
    Cohere2VisionAdapter(),
    Ovis2Adapter(),
]

_GENERIC = GenericAdapter()


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
    """The adapter of a model's family; the generic one where the family is not known.

    Raises:
        TypeError: the configuration is of no supported vision-language model.
    """
    model_type = getattr(config, "model_type", None)
    for adapter in _ADAPTERS:
        if adapter.matches(config):
            return adapter
    refuse_model(config)
    if _GENERIC.matches(config):
        return _GENERIC
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
    refuse_processor(processor)
    if "ProcessorMixin" in names and hasattr(processor, "image_token_id"):
        return _GENERIC
    known = ", ".join(
        sorted(t for adapter in _ADAPTERS for t in adapter.processor_types)
    )
    raise TypeError(
        f"Expected the processor of a supported vision-language model ({known}), got "
        f"{type(processor).__name__}."
    )
