"""Where image tokens lie, measured: marks are painted on the image and looked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from captum_dexar.families.base import FamilyAdapter
from captum_dexar.maps.layout import ImageLayout, View
from PIL import Image
from torch import Tensor

GIVE_PLACES = (
    "If you know where the image tokens lie, pass grid=(rows, columns) or boxes= "
    "(each token's box in pixels of the original image); or use "
    "ImagePromptInput(image, prompt, processor, model)."
)
# Grey levels: the image keeps a quarter of its contrast, above DARKEST, so that there
# is room for RANGE levels of paint, and for resampling that overshoots.
DARKEST, RANGE, CONTRAST = 32, 127, 4
# How far measured centres may be from those of the boxes: in cells, in pixels, and in
# steps of the painted levels. Those that are right are nearer by a factor of two.
TYPICAL_ERROR = (0.03, 0.2, 0.05)
LARGEST_ERROR = (0.1, 0.6, 0.15)
# Grey levels by which the image itself may differ from what the painted ones imply.
LEVEL_ERROR = 8.0
# The part of a token's square that lies on the image, from which it can be measured.
SMALLEST_PART = 0.1


def check_places(
    adapter: FamilyAdapter,
    layout: ImageLayout,
    inputs: Mapping[str, Any],
    images: Sequence[Image.Image],
    process: Callable[[Any], Any],
    config: Any,
) -> None:
    """Compares the boxes of image tokens with what the processor does to an image.

    The image is made darker, and grey levels are added that grow from left to right, or
    from top to bottom. How much of them is left in the pixels of a token tells where
    on the image these come from, whatever was done in between.

    Args:
        adapter (FamilyAdapter): the adapter of the model's family
        layout (ImageLayout): the places to be checked
        inputs (Mapping): the model's inputs for the images, as the processor made them
        images (sequence of PIL.Image.Image): the original images
        process (Callable): turns the image (or the list of several) into model inputs
        config (PreTrainedConfig): the model's configuration

    Raises:
        ValueError: The image tokens lie elsewhere, or it can't be measured.
    """
    try:
        token = adapter.token_of_pixel_input(inputs, layout, config)
    except TypeError as error:
        raise ValueError(
            "How the image was prepared could not be seen, and where its tokens lie "
            f"can't be measured: {error} {GIVE_PLACES}"
        ) from error
    pixels = {
        name: _pixels(process, paint, images, inputs[adapter.pixel_input], adapter)
        for name, paint in _PAINTS.items()
    }
    _check_content(inputs[adapter.pixel_input].double().cpu(), pixels)
    token = token.expand(pixels["dark"].shape)
    full = pixels["bright"] - pixels["dark"]
    sums = {
        name: _sum_by_token(pixels[name] - pixels["dark"], token, layout.num_tokens)
        for name in ("bright", "right", "down")
    }
    # What it would be if all pixels of a token were the image's.
    is_image = full.abs() > full.abs().max() / 2
    counts = _sum_by_token(torch.ones_like(full), token, layout.num_tokens)
    sums["whole"] = counts * full[is_image & (token >= 0)].mean()
    for view in layout.views:
        _check_view(view, images[view.image], sums)


def _dark(pixels: Any) -> Any:
    return DARKEST + pixels // CONTRAST


def _ramp(length: int, across: int) -> Any:
    """Levels from 0 to ``RANGE``, ``(across, length)``, rounded differently in each row
    so that averages are more precise than a level."""
    exact = RANGE * (np.arange(length) + 0.5) / length
    offsets = np.arange(across) * (np.sqrt(5) - 1) / 2 % 1
    return np.floor(exact + offsets[:, None]).astype(np.uint8)


_PAINTS: dict[str, Callable[[Any], Any]] = {
    "blank": lambda pixels: np.full_like(pixels, DARKEST),
    "dark": _dark,
    "bright": lambda pixels: _dark(pixels) + RANGE,
    "right": lambda pixels: (
        _dark(pixels) + _ramp(pixels.shape[1], pixels.shape[0])[..., None]
    ),
    "down": lambda pixels: (
        _dark(pixels) + _ramp(pixels.shape[0], pixels.shape[1]).T[..., None]
    ),
}


def _pixels(
    process: Callable[[Any], Any],
    paint: Callable[[Any], Any],
    images: Sequence[Image.Image],
    like: Tensor,
    adapter: FamilyAdapter,
) -> Tensor:
    """The model's pixels for painted images, as float64."""
    painted = [
        Image.fromarray(paint(np.asarray(image.convert("RGB"))).astype(np.uint8))
        for image in images
    ]
    made = process(painted[0] if len(painted) == 1 else painted)
    pixels = torch.as_tensor(made[adapter.pixel_input]).double().cpu()
    if pixels.shape != like.shape:
        raise ValueError(
            f"{adapter.pixel_input} has the shape {tuple(like.shape)} for the image, "
            f"but {tuple(pixels.shape)} for a darker copy of it, so that where its "
            f"image tokens lie can't be measured. {GIVE_PLACES}"
        )
    return pixels


def _check_content(given: Tensor, pixels: Mapping[str, Tensor]) -> None:
    """The image must have been prepared as its painted copies were."""
    level = (pixels["bright"] - pixels["dark"]) / RANGE
    expected = CONTRAST * (pixels["dark"] - pixels["blank"]) - DARKEST * level
    error = (given - pixels["blank"] - expected).abs().sum()
    if not bool(error <= LEVEL_ERROR * level.abs().sum()):
        raise ValueError(
            "The image and darker copies of it are not prepared in the same way, so "
            f"that where its image tokens lie can't be measured. {GIVE_PLACES}"
        )


def _sum_by_token(values: Tensor, token: Tensor, num_tokens: int) -> Tensor:
    """Sums over the pixels of each token, ``(num_tokens,)``."""
    seen = token >= 0
    total = values.new_zeros(num_tokens)
    return total.index_add(0, token[seen], values[seen])


def _check_view(view: View, image: Image.Image, sums: Mapping[str, Tensor]) -> None:
    size = (image.height, image.width)
    boxes = view.boxes(size)
    sides = boxes[:, 2:] - boxes[:, :2]
    expected_part = sides.prod(1) / view.cell_area
    of_view = {name: values[view.tokens] for name, values in sums.items()}
    part = of_view["bright"] / of_view["whole"]
    is_on_image = expected_part > SMALLEST_PART
    is_wrong = is_on_image & (part < expected_part / 2)
    is_wrong |= ~is_on_image & (part > 0.5 + SMALLEST_PART)
    ratios = torch.stack([of_view["down"], of_view["right"]], 1)
    ratios = ratios / of_view["bright"][:, None]
    centres = ratios * torch.tensor(size, dtype=torch.float64)
    errors = (centres - (boxes[:, 2:] + boxes[:, :2]) / 2)[is_on_image].abs()
    cell = torch.tensor(view.cell_size, dtype=torch.float64)
    if not len(errors):
        return
    cell = torch.tensor(view.cell_size, dtype=torch.float64)
    step = torch.tensor(size, dtype=torch.float64) / RANGE
    allowed = [
        of_cell * cell + pixels + of_step * step
        for of_cell, pixels, of_step in (TYPICAL_ERROR, LARGEST_ERROR)
    ]
    largest = errors.amax(0)
    is_near = errors.square().mean(0).sqrt() <= allowed[0]
    is_near &= largest <= allowed[1]
    if bool(is_wrong.any()) or not bool(is_near.all()):
        raise ValueError(
            "The image tokens do not lie where the settings of the processor's call "
            f"put them: in {view.name} (grid {view.grid[0]} x {view.grid[1]}), they "
            f"are off by up to {float((largest / cell).max()):.1f} cells, as marks "
            "painted on the image show. It may be resized, cropped or flipped outside "
            f"of the processor. {GIVE_PLACES}"
        )
