"""Models of unknown families: a layout is derived, and checked on the model."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.model.state import device_of
from PIL import Image
from torch import nn, Tensor

ADVICE = (
    "Pass grid=(rows, columns) or boxes= where the image tokens' places are known, or "
    "register an adapter for the family (captum_dexar.families.register)."
)
# Where cells are painted in the check, as fractions of the height and the width.
PROBES = ((0.1, 0.1), (0.1, 0.9), (0.4, 0.6), (0.6, 0.3), (0.9, 0.1), (0.9, 0.9))


class GenericAdapter(FamilyAdapter):
    """One square grid per image, or the grid that the processor returns.

    Positions are left to the model, and a given answer is run together with its prompt,
    which is right for every decoder whose self-attention reads the image.
    """

    name: ClassVar[str] = "others"
    model_types: ClassVar[tuple[str, ...]] = ()
    processor_types: ClassVar[tuple[str, ...]] = ()
    boxes_checked: ClassVar[str] = "at run time"
    position_offset: ClassVar[int | None] = None
    replayable: ClassVar[bool] = False
    steps_run_on: ClassVar[str] = "one full pass"
    reuses_projections: ClassVar[bool] = False
    can_be_batched: ClassVar[bool] = False
    takes_several_images: ClassVar[bool] = False
    looks_for_places: ClassVar[bool] = True

    def matches(self, config: Any) -> bool:
        """Whether the model is a decoder with image tokens among the text tokens."""
        has_tokens = isinstance(getattr(config, "image_token_id", None), int)
        has_vision = getattr(config, "vision_config", None) is not None
        return has_tokens and has_vision and not self.is_encoder_decoder(config)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        if isinstance(image.inputs.get("image_grid_thw"), Tensor):
            merge = self._merge_size(image)
            rows, columns = (n // merge for n in self._grid(image)[1:])
            return self.placed("full", (rows, columns), image.whole())
        try:
            side = side_of(image.remaining_tokens)
        except ValueError:
            raise ValueError(
                f"The prompt has {image.remaining_tokens} image tokens, which make no "
                f"square grid, and the model's family is not known. {ADVICE}"
            ) from None
        rectangle = image.whole()
        pixels = image.inputs.get("pixel_values")
        if (
            image.size is not None
            and getattr(image.image_processor, "do_center_crop", None)
            and isinstance(pixels, Tensor)
        ):
            seen_size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
            rectangle = resized_crop(image.image_processor, image.size, seen_size)
        return self.placed("full", (side, side), rectangle)

    def check(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        layout: ImageLayout,
        images: list[Image.Image],
        process: Callable[[Any], Any] | None,
    ) -> None:
        """See :meth:`FamilyAdapter.check`.

        Single cells of the image are painted: the cell's own token must change most.
        """
        (view,) = layout.views
        cells = {
            (int(y * view.grid[0]), int(x * view.grid[1])) for y, x in sorted(PROBES)
        }
        before = _features(model, inputs, layout.num_tokens)
        found = 0
        for row, column in cells:
            if process is not None and images and layout.is_located:
                box = layout.boxes()
                assert box is not None
                painted = process(_painted(images[0], box[row * view.grid[1] + column]))
            else:
                painted = _painted_pixels(inputs, view.grid, row, column)
            change = (_features(model, painted, layout.num_tokens) - before).norm(dim=1)
            found += int(change.argmax()) == row * view.grid[1] + column
        if found < max(1, len(cells) - 1):
            raise ValueError(
                f"Models of type {getattr(model.config, 'model_type', None)!r} are not "
                f"known, and a grid of {view.grid[0]} x {view.grid[1]} over the image "
                "does not fit: where single cells of it were painted, their own image "
                f"token changed most in {found} of {len(cells)} cases. {ADVICE}"
            )

    def _grid(self, image: PreparedImage) -> list[int]:
        try:
            grid: list[int] = image.entry("image_grid_thw")
        except ValueError as error:
            raise ValueError(f"{error} {ADVICE}") from None
        return grid

    def _merge_size(self, image: PreparedImage) -> int:
        vision = getattr(image.config, "vision_config", None)
        merge = getattr(image.image_processor, "merge_size", None)
        return int(merge or getattr(vision, "spatial_merge_size", None) or 1)


def _features(model: nn.Module, inputs: Mapping[str, Any], num_tokens: int) -> Tensor:
    """Image features as they enter the language model, ``(tokens, size)``."""
    encode: Any = None
    for owner in (model, getattr(model, "base_model", None)):
        encode = encode or getattr(owner, "get_image_features", None)
    if encode is None:
        raise ValueError(
            f"{type(model).__name__} has no get_image_features, so that where its "
            f"image tokens lie can't be checked. {ADVICE}"
        )
    names = set(signature(encode).parameters)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    device = device_of(model)
    arguments = {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
        if name in names and isinstance(value, Tensor)
    }
    with torch.no_grad():
        output = encode(**arguments)
    features = getattr(output, "pooler_output", output)
    if isinstance(features, (list, tuple)):
        features = torch.cat(list(features))
    features = features.flatten(0, -2).float()
    if features.shape[0] != num_tokens:
        raise ValueError(
            f"{type(model).__name__} makes {features.shape[0]} image features for "
            f"{num_tokens} image tokens; where they lie can't be checked. {ADVICE}"
        )
    kept: Tensor = features
    return kept


def _painted(image: Image.Image, box: Tensor) -> Image.Image:
    """The image with a box inverted, which has at least one pixel."""
    y0, x0 = (int(edge) for edge in box[:2].floor())
    y1, x1 = (int(edge) for edge in box[2:].ceil())
    pixels = np.array(image.convert("RGB"))
    pixels[y0:y1, x0:x1] = 255 - pixels[y0:y1, x0:x1].mean((0, 1), keepdims=True)
    return Image.fromarray(pixels)


def _painted_pixels(
    inputs: Mapping[str, Any], grid: tuple[int, int], row: int, column: int
) -> dict[str, Any]:
    """The inputs with one cell of the processed image inverted."""
    pixels = inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.dim() != 4 or pixels.shape[0] != 1:
        raise ValueError(
            "Where the image tokens of this model lie can't be checked without the "
            f"original image. Use ImagePromptInput as the input. {ADVICE}"
        )
    height, width = pixels.shape[-2] / grid[0], pixels.shape[-1] / grid[1]
    ys = slice(int(row * height), int((row + 1) * height))
    xs = slice(int(column * width), int((column + 1) * width))
    painted = pixels.clone()
    painted[..., ys, xs] = -painted[..., ys, xs].mean((-2, -1), keepdim=True) + 1.0
    return {**inputs, "pixel_values": painted}
