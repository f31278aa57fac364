"""Which kind a method of Captum is of."""

from collections.abc import Callable
from typing import Any

import captum_dexar.captum_methods.layers as layers
import captum_dexar.captum_methods.perturbation as perturbation
import captum_dexar.captum_methods.pixel_gradients as pixel_gradients
from captum.attr import Attribution, NoiseTunnel
from captum_dexar.captum_methods.request import StepRequest, StepScores
from captum_dexar.methods.base import DecoderLayerAttribution
from captum_dexar.vlm_forward import VLMForward
from torch import nn

Explains = Callable[[Attribution], bool]
Run = Callable[[StepRequest], StepScores]
KINDS: tuple[tuple[Explains, Run], ...] = (
    (layers.explains, layers.run),
    (perturbation.explains, perturbation.run),
    (pixel_gradients.explains, pixel_gradients.run),
)


def model_of(method: Any) -> nn.Module:
    """The vision-language model that a method explains.

    Raises:
        TypeError: it is no method that can be run, or explains something else.
    """
    is_ours = isinstance(method, DecoderLayerAttribution)
    if not is_ours and not any(explains(method) for explains, _ in KINDS):
        raise TypeError(
            "attr_method must be LayerDexAR, a method of captum_dexar.baselines, or "
            "one of Captum's gradient, perturbation and layer methods, got "
            f"{type(method).__name__}."
        )
    inner = method.attribution_method if isinstance(method, NoiseTunnel) else method
    forward_func: Any = inner.forward_func
    model = forward_func.model if isinstance(forward_func, VLMForward) else forward_func
    if not hasattr(model, "config") or not isinstance(model, nn.Module):
        raise TypeError(
            f"{type(method).__name__} must be made with VLMForward(model), got "
            f"{type(forward_func).__name__} as its forward_func."
        )
    return model


def extra_arguments(method: Attribution) -> tuple[str, ...]:
    """Arguments that a method has here besides its own."""
    if perturbation.explains(method):
        return ("patches",)
    return ("steps_per_batch",) if pixel_gradients.explains(method) else ()


def name_of(method: Attribution) -> str:
    """The method's name for humans."""
    if isinstance(method, NoiseTunnel):
        return f"Noise tunnel ({name_of(method.attribution_method)})"
    return str(method.get_name())


def run_captum_method(request: StepRequest) -> StepScores:
    """Explains every step with the request's method."""
    run = next(run for explains, run in KINDS if explains(request.method))
    return run(request)
