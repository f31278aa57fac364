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
# steps of the painted levels; for a single token, and for the mean of a row or column,
# where rounding to whole levels averages out. Right ones are nearer by a factor of two.
ERROR_OF_TOKEN = (0.1, 0.6, 0.6)
ERROR_OF_LINE = (0.03, 0.2, 0.5)
# Grey levels by which the image itself may differ from what the painted ones imply.
LEVEL_ERROR = 8.0
# How far the part of a token's square that lies on the image may be from that of its
# box, and the smallest part whose centre is measured.
PART_ERROR = 0.1
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
    sides = torch.tensor((image.height, image.width), dtype=torch.float64)
    cell = torch.tensor(view.cell_size, dtype=torch.float64)
    boxes = view.boxes((image.height, image.width))
    painted = {name: values[view.tokens] for name, values in sums.items()}
    # Tokens that see padding only have no centre.
    expected_part = (boxes[:, 2:] - boxes[:, :2]).prod(1) / view.cell_area
    part = painted["bright"] / painted["whole"]
    has_right_part = (part - expected_part).abs() <= PART_ERROR + 1 / cell.min()
    levels = torch.stack([painted["down"], painted["right"]], 1)
    measured = levels / painted["bright"][:, None] * sides
    # Beyond the centres of the outermost pixels, resampling repeats them.
    expected = (boxes[:, 2:] + boxes[:, :2]) / 2
    expected = expected.clamp(min=torch.full((2,), 0.5).double(), max=sides - 0.5)
    is_seen = expected_part > SMALLEST_PART
    errors = (measured - expected).where(is_seen[:, None], torch.nan)
    errors = errors.view(*view.grid, 2)
    step = sides / RANGE
    is_near = _is_within(errors, ERROR_OF_TOKEN, cell, step)
    for axis in (0, 1):
        mean = errors[..., axis].nanmean(1 - axis)[:, None]
        averaged = step[axis] / view.grid[1 - axis] ** 0.5
        is_near &= _is_within(mean, ERROR_OF_LINE, cell[axis], averaged)
    is_near &= bool(has_right_part.all())
    if not is_near:
        largest = float((errors.abs() / cell).nan_to_num(0).max())
        raise ValueError(
            "The image tokens do not lie where the image processor's settings put "
            f"them: marks painted on the image are found up to {largest:.1f} cells "
            f"away on the grid of {view.grid[0]} x {view.grid[1]} tokens, or not at "
            "all. The image may be resized, cropped or flipped outside of the image "
            f"processor. {GIVE_PLACES}"
        )


def _is_within(
    errors: Tensor, allowed: tuple[float, float, float], cell: Tensor, step: Tensor
) -> bool:
    """Whether no error is larger than allowed; NaN stands for a token without one."""
    of_cell, pixels, of_step = allowed
    return not bool((errors.abs() > of_cell * cell + pixels + of_step * step).any())
