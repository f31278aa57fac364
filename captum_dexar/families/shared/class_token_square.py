"""Families whose decoder reads a class token and a square of patches, uncut."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import patch_of
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.families.shared.plain_prompt import SingleImageAdapter
from captum_dexar.maps.layout import Size, View
from torch import Tensor


class ClassTokenSquareAdapter(SingleImageAdapter):
    """The keys of one image are a class token, and its patches row by row.

    The decoder computes its attention itself, and is explained by plain autograd at the
    softmax. Positions count padding, so that prompts can't be padded.
    """

    position_offset: ClassVar[int | None] = None
    replayable: ClassVar[bool] = False
    can_be_batched: ClassVar[bool] = False
    only_model_counts_tokens: ClassVar[bool] = True
    steps_run_on: ClassVar[str] = "one pass per token, by plain autograd"

    def needs_autograd(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.needs_autograd`."""
        return True

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """See :meth:`FamilyAdapter.image_keys`."""
        pixels: Tensor = inputs["pixel_values"]
        if pixels.dim() != 4:
            raise ValueError(
                f"{self.name} takes one image per prompt, but pixel_values has the "
                f"shape {tuple(pixels.shape)}."
            )
        rows, columns = patches_of(pixels, config)
        keys = torch.arange(1 + rows * columns, device=pixels.device)
        return keys.expand(pixels.shape[0], -1)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        return class_token_square(image)


def class_token_square(image: PreparedImage) -> ImageTokens:
    """A class token, and the patches of a resized and cropped image row by row."""
    grid = patches_of(image.inputs["pixel_values"], image.config)
    rectangle = None
    if image.size is not None and image.image_processor is not None:
        patch = patch_of(image.config)
        assert patch is not None
        seen = (grid[0] * patch[0], grid[1] * patch[1])
        rectangle = resized_crop(image.image_processor, image.size, seen)
    view = View("full", grid, rectangle, start=1)
    return ImageTokens(1 + view.num_tokens, (view,))


def patches_of(pixels: Tensor, config: Any) -> Size:
    """Rows and columns of patches of an image, ``(..., height, width)``."""
    patch = patch_of(config)
    assert patch is not None
    return pixels.shape[-2] // patch[0], pixels.shape[-1] // patch[1]
