"""Captum's layer methods, on a layer of the vision tower or the projector."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import (
    Attribution,
    LayerActivation,
    LayerGradCam,
    LayerIntegratedGradients,
)
from captum_dexar.captum_methods.layer_tokens import image_token_of
from captum_dexar.captum_methods.request import (
    as_one_example,
    clear_assertions,
    lacks_gradient,
    same_randomness,
    StepRequest,
    TeacherForced,
    with_forward,
)
from captum_dexar.decoding import StepAttributions
from torch import nn, Tensor

_POINTS_AT_A_TIME = 5


def check_method(method: Any, model: nn.Module) -> None:
    """Raises TypeError unless the method is of a single layer."""
    if not isinstance(method.layer, nn.Module):
        raise TypeError(
            f"{type(method).__name__} must be created with a single layer, got "
            f"{type(method.layer).__name__}. Explain one layer at a time."
        )
    if not any(module is method.layer for module in model.modules()):
        raise ValueError(
            f"The layer of {type(method).__name__}, {type(method.layer).__name__}, is "
            "not part of the model."
        )


def extra_arguments(method: Attribution) -> tuple[str, ...]:
    """Arguments that a method has in addition to Captum's."""
    return ()


def run(request: StepRequest) -> StepAttributions:
    """Explains every step; sums over channels and over the layer's tokens that belong
    to each image token.
    """
    forward = TeacherForced(request.steps)
    method = with_forward(request.method, forward)
    arguments = as_one_example(request.arguments, forward.pixels)
    if isinstance(method, LayerIntegratedGradients):
        # Captum's batch size counts rows of the layer's output, several per example.
        with _clear_errors(request):
            activation = _only(
                LayerActivation(forward, method.layer).attribute(forward.pixels)
            )
        points = arguments.get("internal_batch_size") or _POINTS_AT_A_TIME
        arguments["internal_batch_size"] = activation.shape[0] * points
    scores, deltas = [], []
    for step in same_randomness(request.steps.num_steps, forward.pixels.device):
        forward.step = step
        with _clear_errors(request):
            attribution, delta = _attributed(method, forward, arguments)
        scores.append(_on_image_tokens(attribution, request))
        deltas.append(delta)
        request.on_step()
    return request.attributions(torch.stack(scores), forward, deltas)


def _attributed(
    method: Any, forward: TeacherForced, arguments: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """One value per token of the layer, ``(tokens,)`` or ``(pictures, tokens)``."""
    # With frozen weights, only the pixels connect the layer to an autograd graph.
    pixels = forward.pixels.detach().clone().requires_grad_()
    delta = None
    with torch.enable_grad():
        if isinstance(method, LayerGradCam):
            return _grad_cam(method, pixels, arguments), None
        # Captum's own delta is wrong if a layer has several rows per example.
        own = {k: v for k, v in arguments.items() if k != "return_convergence_delta"}
        attribution = method.attribute(pixels, **own)
    if arguments.get("return_convergence_delta"):
        delta = _convergence_delta(_only(attribution), forward, own.get("baselines"))
    attribution = _only(attribution).detach()
    if attribution.dim() == 4:
        return attribution.sum(1).flatten(1), delta
    return attribution.sum(-1), delta


def _convergence_delta(
    attribution: Tensor, forward: TeacherForced, baselines: Tensor | float | None
) -> Tensor:
    """The sum of the attributions minus the change of the output."""
    absent = torch.zeros_like(forward.pixels)
    if baselines is not None:
        absent = absent + torch.as_tensor(baselines).to(absent)
    with torch.no_grad():
        change = forward(forward.pixels) - forward(absent)
    delta: Tensor = attribution.detach().sum() - change[0]
    return delta


@contextmanager
def _clear_errors(request: StepRequest) -> Iterator[None]:
    """Replaces cryptic errors of Captum and torch about a layer by clear ones."""
    family = request.prompt.adapter.name
    try:
        with clear_assertions(request.method):
            yield
    except ValueError as error:
        if "did not obtain any outputs" not in str(error):
            raise
        raise ValueError(
            f"The layer is not called when a model of the family {family} runs, so it "
            "has no output. Choose a single layer that is called."
        ) from error
    except RuntimeError as error:
        if not lacks_gradient(error):
            raise
        raise ValueError(
            "No gradient flows from the answer to the layer's output in a model of the "
            f"family {family}: some vision towers return hidden states recorded before "
            "Captum's hook, and some quantise the image. Choose an earlier layer, the "
            "projector, or a method without gradients."
        ) from error


def _grad_cam(method: Any, pixels: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Grad-CAM; unlike Captum's, it finds the channels of token layers (last axis)."""
    relu = bool(arguments.get("relu_attributions", False))
    gradients, activations = compute_layer_gradients_and_eval(
        method.forward_func,
        method.layer,
        pixels,
        grad_kwargs=arguments.get("grad_kwargs"),
    )
    gradient, activation = _only(gradients).detach(), _only(activations).detach()
    if activation.dim() == 4:
        weights = gradient.mean((2, 3), keepdim=True)
        values = (weights * activation).sum(1).flatten(1)
    else:
        weights = gradient.mean(-2, keepdim=True)
        values = (weights * activation).sum(-1)
    return values.relu() if relu else values


def _only(values: Any) -> Tensor:
    value = values[0] if isinstance(values, (tuple, list)) else values
    if not isinstance(value, Tensor):
        raise ValueError(
            f"The layer returns {type(value).__name__}, which can't be explained. "
            "Choose a layer whose output is a tensor with one token per patch."
        )
    return value


def _on_image_tokens(values: Tensor, request: StepRequest) -> Tensor:
    """Sums the layer's tokens into image tokens, ``(image tokens,)``."""
    flat = values.detach().cpu().float().flatten()
    token = image_token_of(flat.numel(), request)
    num_tokens = request.prompt.layout.num_tokens
    total = torch.zeros(num_tokens + 1)
    total.index_add_(0, token.where(token >= 0, num_tokens), flat)
    return total[:-1]
