"""The methods that explain decoder layers, DEX-AR first."""

from captum_dexar.methods.base import DecoderLayerAttribution
from captum_dexar.methods.layer_dexar import LayerDexAR

__all__ = ["DecoderLayerAttribution", "LayerDexAR"]
