"""Inkling and Inkling 2, one patch per token."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.shared.patch_grid import PatchGridAdapter
from captum_dexar.maps.layout import ImageLayout, Rectangle
from torch import Tensor


class Inkling2Adapter(PatchGridAdapter):
    """The image as it is, padded at the bottom and at the right until whole patches
    cover it. The grid is counted in tokens."""

    name: ClassVar[str] = "Inkling 2"
    model_types: ClassVar[tuple[str, ...]] = ("inkling2",)
    processor_types: ClassVar[tuple[str, ...]] = ("Inkling2Processor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    pixel_dims: ClassVar[int] = 4
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    steps_run_on: ClassVar[str] = "one full pass"

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        _, rows, columns = image.entry("image_grid_thw")
        rectangle: Rectangle | None = None
        if image.size is not None:
            height, width = image.inputs[self.pixel_input].shape[1:3]
            rectangle = (0.0, 0.0, float(rows * height), float(columns * width))
        return self.placed("full", (rows, columns), rectangle)


class InklingAdapter(FamilyAdapter):
    """As Inkling 2, but the image may be rescaled before it is cut into patches, and
    its grid is not among the model's inputs.

    The last patch of every row is padded at the right, if need be with nothing else in
    it. Padding is darker than any pixel, so that the pixels show the grid.
    """

    name: ClassVar[str] = "Inkling (images)"
    model_types: ClassVar[tuple[str, ...]] = ("inkling_mm_model",)
    processor_types: ClassVar[tuple[str, ...]] = ("InklingProcessor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 5
    steps_run_on: ClassVar[str] = "one full pass"

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        known = image.processor if image.config is None else image.config
        is_image = torch.as_tensor(image.inputs["input_ids"]) == known.image_token_id
        pixels = torch.as_tensor(image.inputs[self.pixel_input])
        padding = _padding(pixels)
        num_examples = len(is_image)
        is_last = padding[:, 0, -1].view(num_examples, -1)
        if bool((is_last != is_last[0]).any()):
            raise ValueError(
                "All examples of a batch must have images of the same grid. Explain "
                "them one at a time."
            )
        start = is_last.shape[1] - image.remaining_tokens
        count = self._count(is_image[0], start)
        padding = padding[start : start + count]
        columns = int(padding[:, 0, -1].int().argmax()) + 1
        rows = count // columns
        if rows * columns != count or not bool(
            padding[columns - 1 :: columns, 0, -1].all()
        ):
            raise ValueError(
                f"The {count} patches of an image are no grid: in the output of "
                "Inkling's image processor the last patch of each row is padded at the "
                "right."
            )
        rectangle = None
        if image.size is not None:
            height, width = image.size
            patch_height, patch_width = pixels.shape[-3:-1]
            # The pixels of the image, as it was rescaled.
            high = (rows - 1) * patch_height + int((~padding[-columns, :, 0]).sum())
            wide = (columns - 1) * patch_width + int((~padding[columns - 1, 0]).sum())
            rectangle = (
                0.0,
                0.0,
                rows * patch_height * height / high,
                columns * patch_width * width / wide,
            )
        return self.placed("full", (rows, columns), rectangle)

    def _count(self, is_image: Tensor, start: int) -> int:
        """The number of image tokens without text between, from the first on."""
        places = is_image.nonzero()[:, 0][start:]
        counted = torch.arange(len(places), device=places.device)
        return int((places - places[0] == counted).sum())

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`; rows are patches."""
        shape = inputs[self.pixel_input].shape
        if shape[0] != layout.num_tokens:
            raise self.unknown_pixels(shape)
        return torch.arange(layout.num_tokens).view(-1, *[1] * (len(shape) - 1))


def _padding(pixels: Tensor) -> Tensor:
    """Which pixels of each patch are padding, ``(patches, height, width)``."""
    first_frame = pixels[:, 0]
    darkest = first_frame.amin((0, 1, 2))
    return (first_frame == darkest).all(-1)
