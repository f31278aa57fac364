"""What a method is called with, checked."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from captum_dexar.captum_methods import extra_arguments, name_of
from captum_dexar.methods.base import DecoderLayerAttribution

# Arguments of Captum's methods that are given for the user.
_OURS = ("inputs", "target", "additional_forward_args", "feature_mask")


def check_arguments(method: Any, arguments: Mapping[str, Any]) -> None:
    """Raises TypeError for an argument that the method does not have."""
    is_stepwise = isinstance(method, DecoderLayerAttribution)
    if is_stepwise:
        known: tuple[str, ...] = (*method.step_arguments, "normalize")
    else:
        parameters = signature(method.attribute).parameters
        known = (*parameters, "normalize", *extra_arguments(method))
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
    unknown = sorted(set(arguments) - set(known) | set(arguments) & set(_OURS))
    if unknown:
        layers = (
            " Layers are chosen in its constructor; keep_layers=True keeps the maps of "
            "single layers in the result."
        )
        raise TypeError(
            f"{name_of(method)} has no argument {', '.join(unknown)}; "
            f"it has {', '.join(name for name in known if name not in _OURS)}."
            f"{layers if is_stepwise else ''}"
        )


def check_contrast(method: Any) -> None:
    """Raises TypeError if the method explains no difference of logits."""
    if isinstance(method, DecoderLayerAttribution) and not method.takes_contrast:
        raise TypeError(
            f"{name_of(method)} does not explain a logit, so that there is nothing to "
            "contrast. Use LayerDexAR or a gradient method."
        )
