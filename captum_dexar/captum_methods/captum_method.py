"""Adapts Captum's own methods to the interface of the decoder-layer methods."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from captum.attr import Attribution, NoiseTunnel
from captum_dexar.captum_methods import layers, perturbation, pixel_gradients
from captum_dexar.captum_methods.request import StepRequest
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.methods.base import check_known, DecoderLayerAttribution
from captum_dexar.model.state import kept_state
from captum_dexar.model.thread_hooks import only_in_this_thread
from captum_dexar.vlm_forward import VLMForward
from torch import nn

# One module per kind of method; the first that claims a method runs it.
KINDS: tuple[Any, ...] = (layers, perturbation, pixel_gradients)
# Arguments of Captum's methods that are set here, not by the user.
GIVEN = ("inputs", "target", "additional_forward_args", "feature_mask")


class CaptumMethod:
    """Runs one of Captum's own methods, made with :class:`VLMForward`, step by step.

    It has the interface of :class:`DecoderLayerAttribution`.
    """

    takes_contrast = True
    can_be_batched = False
    parts_per_step = 1

    def __init__(self, method: Attribution) -> None:
        kind = next((kind for kind in KINDS if kind.explains(method)), None)
        if kind is None:
            raise TypeError(
                "attr_method must be LayerDexAR, a method of captum_dexar.baselines, "
                "or one of Captum's gradient, perturbation and layer methods, got "
                f"{type(method).__name__}."
            )
        self.method = method
        self.kind = kind
        self.model = _explained_model(method)

    def get_name(self) -> str:
        """The display name."""
        return method_name(self.method)

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raises TypeError for an argument that the method does not have."""
        method: Any = self.method
        parameters = signature(method.attribute).parameters
        known = [name for name in parameters if name not in GIVEN]
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            known += [name for name in arguments if name not in GIVEN]
        check_known(self.get_name(), arguments, [*known, *self.kind.EXTRA_ARGUMENTS])

    def online(self, prompt: Prompt, **arguments: Any) -> None:
        """None: these methods can't explain during generation."""

    def attribute_steps(
        self,
        steps: DecodingSteps,
        cache: Any = None,
        *,
        on_layer: Callable[[int], object] | None = None,
        **arguments: Any,
    ) -> StepAttributions:
        """See :meth:`DecoderLayerAttribution.attribute_steps`.

        The cache is not used, because the pixels change.
        """

        def on_step() -> None:
            if on_layer is not None:
                on_layer(1)

        with kept_state(self.model), only_in_this_thread(self.model.modules()):
            made: StepAttributions = self.kind.run(
                StepRequest(self.method, steps, arguments, on_step)
            )
        return made


def method_name(method: Any) -> str:
    """The display name of a method."""
    if isinstance(method, NoiseTunnel):
        return f"Noise tunnel ({method_name(method.attribution_method)})"
    return str(method.get_name())


def as_step_method(method: Any) -> "DecoderLayerAttribution | CaptumMethod":
    """Wraps a method if it is one of Captum's own; raises TypeError if unsupported."""
    if isinstance(method, DecoderLayerAttribution):
        return method
    return CaptumMethod(method)


def _explained_model(method: Any) -> nn.Module:
    inner = method.attribution_method if isinstance(method, NoiseTunnel) else method
    forward_func: Any = inner.forward_func
    model = forward_func.model if isinstance(forward_func, VLMForward) else forward_func
    if not hasattr(model, "config") or not isinstance(model, nn.Module):
        raise TypeError(
            f"{type(method).__name__} must be created with VLMForward(model), got "
            f"{type(forward_func).__name__} as its forward_func."
        )
    return model
