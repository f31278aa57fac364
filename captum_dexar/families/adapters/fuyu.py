"""Fuyu, which has no vision tower: patches of the image are its tokens."""

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.plain_prompt import SingleImageAdapter
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size
from torch import Tensor


class FuyuAdapter(SingleImageAdapter):
    """Rows of patches that cover the image, each followed by a newline, which is not an
    image token. Large images are shrunk; padding is at the bottom and at the right."""

    name: ClassVar[str] = "Fuyu"
    model_types: ClassVar[tuple[str, ...]] = ("fuyu",)
    processor_types: ClassVar[tuple[str, ...]] = ("FuyuProcessor",)
    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 2

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        if image.inputs[self.pixel_input].dim() < self.pixel_dims:
            raise ValueError(
                "The image is a single patch, for which Fuyu's processor makes inputs "
                "that the model does not take. Pass a larger image."
            )
        known = image.processor if image.config is None else image.config
        is_image = image.inputs["input_ids"] == known.image_token_id
        widths = {_first_run(of_example) for of_example in is_image}
        if len(widths) > 1:
            raise ValueError(
                "The images of a batch must have the same grid of patches, got rows of "
                f"{sorted(widths)}. Explain one example at a time."
            )
        columns = widths.pop()
        grid = (image.remaining_tokens // columns, columns)
        return self.placed("full", grid, _rectangle(image, grid))

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`; rows are patches."""
        shape = inputs[self.pixel_input].shape
        if prod(shape[:-1]) != layout.num_tokens:
            raise self.unknown_pixels(shape)
        return torch.arange(layout.num_tokens).view(*shape[:-1], 1)

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`."""
        return processor(
            images=images,
            text=text,
            return_tensors="pt",
            return_legacy_image_output=False,
        )


def _first_run(is_image: Tensor) -> int:
    """Length of the first row of image tokens, up to the newline."""
    places = is_image.nonzero()[:, 0]
    counted = torch.arange(len(places), device=places.device)
    return int((places - places[0] == counted).sum())


def _rectangle(image: PreparedImage, grid: Size) -> Rectangle | None:
    image_processor = image.image_processor
    if image.size is None or image_processor is None:
        return None
    height, width = image.size
    largest = image_processor.size
    scale_y = scale_x = 1.0
    if image_processor.do_resize and (
        height > largest["height"] or width > largest["width"]
    ):
        scale = min(largest["height"] / height, largest["width"] / width)
        scale_y, scale_x = int(height * scale) / height, int(width * scale) / width
    patch = image_processor.patch_size
    return (
        0.0,
        0.0,
        grid[0] * patch["height"] / scale_y,
        grid[1] * patch["width"] / scale_x,
    )
