"""Which part of the picture made the model say that word?

DEX-AR heatmaps for vision-language models, as a Captum attribution method, and a
wrapper that explains every token of an answer.
"""

from importlib.metadata import version

from captum_dexar.comparison.comparison import compare, Comparison
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.methods.layer_dexar import LayerDexAR
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.vlm_attribution import VLMAttribution
from captum_dexar.vlm_forward import VLMForward

__version__ = version("captum-dexar")

__all__ = [
    "Comparison",
    "ImagePromptInput",
    "LayerDexAR",
    "VLMAttribution",
    "VLMAttributionResult",
    "VLMForward",
    "compare",
]
