"""Interpretable features of perturbation methods: parts of the image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import ImageMaskInput
from captum_dexar.captum_methods.request import StepRequest
from captum_dexar.maps.composition import map_grid
from captum_dexar.maps.image_tokens import ImageTokenInput
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Parts of the image that can be absent.

    Attributes:
        count (int): number of features
        grid (tuple of int or None): rows and columns, if the features form a grid
        make_inputs (Callable): maps ``(1, count)``, 0 where a feature is absent, to
            model inputs
        to_tokens (Tensor or None): how each feature is distributed over the image
            tokens, ``(count, image tokens)``; rows sum to 1, or to 0 if no token covers
            the feature
        layout (ImageLayout or None): places of the features themselves, if they are not
            distributed
    """

    count: int
    grid: tuple[int, int] | None
    make_inputs: Callable[[Tensor], Any]
    to_tokens: Tensor | None = None
    layout: ImageLayout | None = None


def image_features(
    request: StepRequest, patches: tuple[int, int] | None, as_grid: bool
) -> ImageFeatures:
    """The image tokens of an ``ImagePromptInput``, the segments of an
    ``ImageMaskInput``, or the image tokens' pixels if only model inputs are known.

    Args:
        request (StepRequest): the input
        patches (tuple of int or None): rows and columns of image patches to use instead
        as_grid (bool): whether the features must form a grid
    """
    inp, layout = request.prompt.inp, request.prompt.layout
    if isinstance(inp, ImageTokenInput):
        is_one_view = len(layout.views) == 1
        if patches is None and (is_one_view or not as_grid):
            return ImageFeatures(
                count=inp.n_itp_features,
                grid=layout.views[0].grid if is_one_view else None,
                make_inputs=inp.to_model_input,
                to_tokens=torch.eye(layout.num_tokens)[layout.placed],
            )
        return _patches(inp, layout, patches or map_grid(layout))
    if patches is not None:
        raise ValueError(
            "patches= are cut out of the original image, which is known only for an "
            f"ImagePromptInput, got {type(inp).__name__}."
        )
    if isinstance(inp, ImageMaskInput):
        if as_grid:
            raise ValueError(
                "Occlusion needs a grid of features, but the segments of an "
                "ImageMaskInput form none. Use an ImagePromptInput."
            )
        return _segments(inp, layout)
    if as_grid and len(layout.views) > 1:
        raise ValueError(
            f"Occlusion needs a single grid, but {request.prompt.adapter.name} sees "
            f"{len(layout.views)} views here, and the original image is not known. Use "
            "an ImagePromptInput."
        )
    return _token_pixels(request)


def _patches(
    inp: ImageTokenInput, layout: ImageLayout, grid: tuple[int, int]
) -> ImageFeatures:
    """Cells of a grid over the whole image."""
    if layout.num_images != 1 or layout.image_sizes is None:
        raise ValueError(
            f"patches need a prompt with one image, got {layout.num_images} images."
        )
    height, width = layout.image_sizes[0]
    if not (1 <= grid[0] <= height and 1 <= grid[1] <= width):
        raise ValueError(
            f"patches must be rows and columns of an image of {height} x {width} "
            f"pixels, got {grid}."
        )
    whole = View("patch", grid, (0.0, 0.0, float(height), float(width)))
    cells = ImageLayout(whole.num_tokens, (whole,), layout.image_sizes)
    painted = ImageTokenInput(
        inp.images,
        cells,
        inp.processor_fn,
        baseline=inp.baseline,
        model_inputs=inp.original_model_inputs,
    )
    return ImageFeatures(
        count=whole.num_tokens,
        grid=grid,
        make_inputs=painted.to_model_input,
        to_tokens=_shares(cells.token_of_pixel(), whole.num_tokens, layout),
    )


def _segments(inp: ImageMaskInput, tokens: ImageLayout) -> ImageFeatures:
    """The segments of the user's own mask, which become the result's columns."""
    image = inp.image
    if image.mode != "RGB":
        raise ValueError(
            "Captum's ImageMaskInput paints absent segments in an RGB colour, but the "
            f"image has mode {image.mode!r}. Create it with image.convert('RGB')."
        )
    masks = inp.mask_list or (inp.mask == index for index in inp.mask_id_to_idx)
    if len(inp.values) != len(inp.mask_list or inp.mask_id_to_idx):
        raise ValueError(
            "The mask of an ImageMaskInput must hold whole numbers, one per segment, "
            f"got {inp.mask.dtype} values that Captum can't tell apart."
        )
    seen = tokens.token_of_pixel() >= 0 if tokens.is_located else None
    size = image.height, image.width
    return ImageFeatures(
        count=len(inp.values),
        grid=None,
        make_inputs=inp.to_model_input,
        layout=SegmentLayout.of_masks(masks, inp.values, size, seen),
    )


def _shares(feature_of_pixel: Tensor, count: int, layout: ImageLayout) -> Tensor:
    """The share of each feature's pixels in each token, ``(count, image tokens)``."""
    placed = layout.placed
    token = layout.token_of_pixel().long().flatten()
    feature = feature_of_pixel.long().flatten()
    both = (token >= 0) & (feature >= 0)
    shares = torch.zeros(count, layout.num_tokens)
    shares.index_put_(
        (feature[both], placed[token[both]]),
        torch.ones(int(both.sum())),
        accumulate=True,
    )
    total = shares.sum(1, keepdim=True)
    return shares / total.where(total > 0, 1.0)


def _token_pixels(request: StepRequest) -> ImageFeatures:
    """The elements of the model's pixels by image token; absent ones become zero."""
    adapter, inputs = request.prompt.adapter, request.prompt.inputs
    pixels = inputs[adapter.pixel_input]
    layout = request.prompt.layout
    token = adapter.token_of_pixel_input(inputs, layout, request.prompt.config)
    token = token.to(pixels.device)
    column = torch.full((layout.num_tokens + 1,), -1, dtype=torch.long)
    column[layout.placed] = torch.arange(len(layout.placed))
    feature = column.to(pixels.device)[token]

    def make_inputs(present: Tensor) -> dict[str, Any]:
        kept = present[0].to(pixels.device)[feature.clamp(min=0)] != 0
        masked = pixels.where(kept | (feature < 0), torch.zeros_like(pixels))
        prompt = {k: v for k, v in inputs.items() if k != "position_ids"}
        return {**prompt, adapter.pixel_input: adapter.visible(masked)}

    views = layout.views
    return ImageFeatures(
        count=len(layout.placed),
        grid=views[0].grid if len(views) == 1 else None,
        make_inputs=make_inputs,
        to_tokens=torch.eye(layout.num_tokens)[layout.placed],
    )
