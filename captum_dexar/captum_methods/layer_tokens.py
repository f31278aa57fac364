"""Maps the tokens of a vision layer to image tokens."""

from math import isqrt, prod
from typing import Any

import torch
from captum_dexar.captum_methods.request import StepRequest
from captum_dexar.maps.layout import ImageLayout
from torch import nn, Tensor


def image_token_of(count: int, request: StepRequest) -> Tensor:
    """The image token of each of a layer's ``count`` output tokens, or -1."""
    prompt = request.prompt
    adapter, layout = prompt.adapter, prompt.layout
    method: Any = request.method
    order = adapter.vision_order(
        _name_of(method.layer, request.prompt.model), prompt.inputs, prompt.config
    )
    token = _of_pixels(count, request)
    if token is None and count == layout.num_tokens:
        token = torch.arange(count)
    if token is None:
        token = _of_views(count, layout)
    if token is None or count % len(token if order is None else order):
        raise ValueError(
            f"The layer returns {count} tokens, which can't be matched with the "
            f"{layout.num_tokens} image tokens of {adapter.name}. Choose a layer of "
            "the vision tower or the projector whose output has one token per patch."
        )
    if order is None:
        return token
    return token.view(len(order), -1)[order].flatten()


def _name_of(layer: nn.Module, model: nn.Module) -> str:
    return next((name for name, m in model.named_modules() if m is layer), "")


def _of_pixels(count: int, request: StepRequest) -> Tensor | None:
    """By the input pixels of the layer's tokens, picture by picture."""
    prompt = request.prompt
    try:
        of_pixel = prompt.adapter.token_of_pixel_input(
            prompt.inputs, prompt.layout, prompt.config
        )
    except TypeError:
        return None
    if of_pixel.shape[-1] == 1:
        rows = of_pixel.flatten()
        return rows if len(rows) == count else None
    pictures = of_pixel.view(-1, *of_pixel.shape[-2:])
    patch = prompt.adapter.pixel_patch(prompt.config) or (1, 1)
    # Some vision towers skip pictures that are only padding, others don't.
    is_used = (pictures >= 0).flatten(1).any(1)
    for given in (pictures, pictures[is_used]):
        per_picture = count / len(given)
        for num_others in (0, 1):
            cell = _cell(given.shape[1:], patch, per_picture - num_others)
            if cell is not None:
                last = prompt.adapter.class_token_is_last
                return _of_cells(given, cell, num_others, last).flatten()
    return None


def _of_cells(
    pictures: Tensor, cell: tuple[int, int], num_others: int, others_last: bool
) -> Tensor:
    """The image token at the centre of each cell, picture by picture."""
    rows, columns = (
        torch.arange(side // length) * length + length // 2
        for side, length in zip(pictures.shape[1:], cell)
    )
    token = pictures[:, rows[:, None], columns].flatten(1)
    others = token.new_full((len(token), num_others), -1)
    parts = [token, others] if others_last else [others, token]
    return torch.cat(parts, dim=1)


def _cell(
    picture: tuple[int, ...], patch: tuple[int, int], count: float
) -> tuple[int, int] | None:
    """Height and width of the largest cells, in whole patches, that give ``count``."""
    for patches in range(max(n // p for n, p in zip(picture, patch)), 0, -1):
        cell = patches * patch[0], patches * patch[1]
        if prod(n // length for n, length in zip(picture, cell)) == count:
            return cell
    return None


def _of_views(count: int, layout: ImageLayout) -> Tensor | None:
    """By merging square blocks of tokens in raster order, view by view."""
    merge = isqrt(count // len(layout.placed))
    if merge == 0 or merge**2 * len(layout.placed) != count:
        return None
    return torch.cat(
        [
            view.tokens.view(view.grid)
            .repeat_interleave(merge, 0)
            .repeat_interleave(merge, 1)
            .flatten()
            for view in layout.views
        ]
    )
