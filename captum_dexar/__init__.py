"""Which part of the picture made the model say that word?

DEX-AR heatmaps for vision-language models, as a Captum attribution method, and a
wrapper that explains every token of an answer.

Public names are imported when they are first used, so that ``import captum_dexar`` and
the command line's help need neither torch nor transformers.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, TYPE_CHECKING

from captum_dexar.compatibility import check_versions

if TYPE_CHECKING:
    from captum_dexar.comparison.comparison import compare, Comparison
    from captum_dexar.inputs.image_prompt import ImagePromptInput
    from captum_dexar.methods.layer_dexar import LayerDexAR
    from captum_dexar.result.result import VLMAttributionResult
    from captum_dexar.vlm_attribution import VLMAttribution
    from captum_dexar.vlm_forward import VLMForward

    __version__: str

check_versions()

__all__ = [
    "Comparison",
    "ImagePromptInput",
    "LayerDexAR",
    "VLMAttribution",
    "VLMAttributionResult",
    "VLMForward",
    "compare",
]
_MODULES = {
    "Comparison": "comparison.comparison",
    "ImagePromptInput": "inputs.image_prompt",
    "LayerDexAR": "methods.layer_dexar",
    "VLMAttribution": "vlm_attribution",
    "VLMAttributionResult": "result.result",
    "VLMForward": "vlm_forward",
    "compare": "comparison.comparison",
}

# Type checkers would take any name for one that exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A public name, the version or a module of the package (PEP 562)."""
        if name in _MODULES:
            try:
                value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
            except AttributeError as error:
                # Raised as it is, it would say that this package lacks the name.
                raise ImportError(f"{name} can't be imported: {error}") from error
        elif name == "__version__":
            from importlib.metadata import version

            value = version("captum-dexar")
        elif not name.startswith("__") and find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
