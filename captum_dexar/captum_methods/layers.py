"""Captum's layer methods, on a layer of the vision tower or the projector."""

from math import isqrt
from typing import Any

import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import (
    Attribution,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from captum_dexar.captum_methods.request import (
    log_probs,
    same_randomness,
    stacked,
    StepRequest,
    StepScores,
    TeacherForced,
    with_forward,
)
from torch import Tensor

_METHODS = (
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
_POINTS_AT_A_TIME = 5


def explains(method: Attribution) -> bool:
    """Whether this is a method of that kind."""
    return isinstance(method, _METHODS)


def run(request: StepRequest) -> StepScores:
    """Explains every step; channels are summed, and the layer's tokens land on the
    image tokens that are made of them.

    Raises:
        ValueError: the layer's output can't be matched with the image tokens.
    """
    forward = TeacherForced(request.steps, request.contrast_ids)
    method = with_forward(request.method, forward)
    arguments = dict(request.arguments)
    if isinstance(method, LayerIntegratedGradients):
        rows = forward.pixels.shape[0] * _POINTS_AT_A_TIME
        arguments.setdefault("internal_batch_size", rows)
    scores, deltas = [], []
    for step in same_randomness(request.steps.num_steps):
        forward.step = step
        attribution, delta = _attributed(method, forward, arguments)
        scores.append(_on_image_tokens(attribution, request))
        deltas.append(delta)
        request.on_step()
    return StepScores(
        token_attr=torch.stack(scores),
        token_log_probs=log_probs(forward),
        convergence_delta=stacked(deltas),
    )


def _attributed(
    method: Any, forward: TeacherForced, arguments: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """One value a token of the layer, ``(tokens,)`` or ``(pictures, tokens)``."""
    # Of frozen weights no graph would lead to the layer.
    pixels = forward.pixels.detach().clone().requires_grad_()
    delta = None
    if isinstance(method, LayerGradCam):
        return _grad_cam(method, pixels, arguments), None
    with torch.enable_grad():
        attribution = method.attribute(pixels, **arguments)
    if arguments.get("return_convergence_delta"):
        attribution, delta = attribution
        delta = delta.detach().mean()
    attribution = _only(attribution).detach()
    if attribution.dim() == 4:
        return attribution.sum(1).flatten(1), delta
    return attribution.sum(-1), delta


def _grad_cam(method: Any, pixels: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Captum takes axis 1 for the channels; those of tokens come last."""
    relu = bool(arguments.get("relu_attributions", False))
    with torch.enable_grad():
        gradients, activations = compute_layer_gradients_and_eval(
            method.forward_func, method.layer, pixels
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
    assert isinstance(value, Tensor)
    return value


def _on_image_tokens(values: Tensor, request: StepRequest) -> Tensor:
    """Sums the layer's tokens into image tokens, ``(image tokens,)``."""
    layout, steps = request.layout, request.steps
    flat = values.detach().cpu().float().flatten()
    token = _image_token_of(flat.numel(), values.shape[-1], request)
    if token is None:
        raise ValueError(
            f"The layer gives {flat.numel()} tokens, which can't be matched with the "
            f"{layout.num_tokens} image tokens of {steps.adapter.name}. Choose a layer "
            "of the vision tower or the projector whose output has one token a patch."
        )
    total = torch.zeros(layout.num_tokens + 1)
    total.index_add_(0, token.where(token >= 0, layout.num_tokens), flat)
    return total[:-1]


def _image_token_of(count: int, per_row: int, request: StepRequest) -> Tensor | None:
    """The image token that each token of the layer goes into; -1 for none."""
    layout, steps = request.layout, request.steps
    if count == layout.num_tokens:
        return torch.arange(count)
    if steps.adapter.flat_pixels and steps.inputs[steps.adapter.pixel_input].dim() == 2:
        rows = steps.adapter.token_of_pixel_input(steps.inputs, layout, steps.config)
        if rows.shape[0] == count:
            return rows.flatten()
    if count % len(layout.views):
        return None
    of_view = count // len(layout.views)
    parts = []
    for view in layout.views:
        part = _raster_token_of(of_view, view.grid)
        if part is None:
            return None
        parts.append(torch.where(part >= 0, view.tokens[part.clamp(min=0)], -1))
    return torch.cat(parts)


def _raster_token_of(count: int, grid: tuple[int, int]) -> Tensor | None:
    """The cell of each of a picture's tokens, a class token first where one is over."""
    cells = grid[0] * grid[1]
    for extra in (0, 1):
        merge = isqrt((count - extra) // cells)
        if merge and merge**2 * cells == count - extra:
            rows = torch.arange(grid[0] * merge) // merge
            columns = torch.arange(grid[1] * merge) // merge
            raster = (rows[:, None] * grid[1] + columns).flatten()
            return torch.cat([raster.new_full((extra,), -1), raster])
    return None
