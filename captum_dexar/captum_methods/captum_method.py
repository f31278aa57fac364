"""Adapts Captum's own methods to the interface of the decoder-layer methods."""

from collections.abc import Callable, Mapping
from typing import Any

from captum.attr import Attribution, LayerActivation, NoiseTunnel
from captum_dexar.captum_methods import layers, perturbation, pixel_gradients
from captum_dexar.captum_methods.arguments import checked_arguments
from captum_dexar.captum_methods.request import StepRequest
from captum_dexar.captum_methods.supported import explained_kind, LAYER, PARTS, PIXELS
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.methods.base import DecoderLayerAttribution
from captum_dexar.model.state import kept_state
from captum_dexar.model.thread_hooks import only_in_this_thread
from captum_dexar.vlm_forward import VLMForward
from torch import nn

# The module that runs methods of each kind.
RUNNERS: dict[str, Any] = {LAYER: layers, PARTS: perturbation, PIXELS: pixel_gradients}


class CaptumMethod:
    """Runs one of Captum's own methods, made with :class:`VLMForward`, step by step.

    It has the interface of :class:`DecoderLayerAttribution`.

    Args:
        method (Attribution): the method

    Raises:
        TypeError: the method can't explain an answer, or was not made with a model; the
            message says why.
    """

    can_be_batched = False
    parts_per_step = 1

    def __init__(self, method: Attribution) -> None:
        self.kind = explained_kind(method)
        self.method = method
        self.model = _explained_model(method)
        self.runner = RUNNERS[self.kind]
        # Activations do not depend on the explained token.
        self.takes_contrast = not isinstance(method, LayerActivation)

    def get_name(self) -> str:
        """The display name."""
        return method_name(self.method)

    def name_with(self, arguments: Mapping[str, Any]) -> str:
        """See :meth:`DecoderLayerAttribution.name_with`."""
        return self.get_name()

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for arguments that can't be used, and the
        errors of methods that can't explain this model."""
        self.runner.check_method(self.method, self.model)
        self._checked(arguments)

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        extra = self.runner.extra_arguments(self.method)
        return checked_arguments(
            self.method, self.kind, self.get_name(), arguments, extra
        )

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

        request = StepRequest(self.method, steps, self._checked(arguments), on_step)
        with kept_state(self.model), only_in_this_thread(self.model.modules()):
            made: StepAttributions = self.runner.run(request)
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
