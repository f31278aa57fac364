"""Facts about the families of vision-language models, one adapter per family."""

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.given_layout import given_layout
from captum_dexar.families.registry import (
    adapter_for_config,
    adapter_for_processor,
    known_families,
    register,
)
from captum_dexar.families.table import families_table
from captum_dexar.maps.layout import ImageLayout, View

__all__ = [
    "FamilyAdapter",
    "ImageLayout",
    "ImageTokens",
    "PreparedImage",
    "View",
    "adapter_for_config",
    "adapter_for_processor",
    "families_table",
    "given_layout",
    "known_families",
    "register",
]
