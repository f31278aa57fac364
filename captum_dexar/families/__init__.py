"""Facts about the families of vision-language models, one adapter a family."""

from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.registry import adapter_for_config, adapter_for_processor
from captum_dexar.layout import ImageLayout, View

__all__ = [
    "FamilyAdapter",
    "ImageLayout",
    "View",
    "adapter_for_config",
    "adapter_for_processor",
]
