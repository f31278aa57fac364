"""Families whose processor returns the grid of patches of each image."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import ImageLayout
from torch import Tensor


class PatchGridAdapter(FamilyAdapter):
    """The whole image, stretched to a grid of patches; squares of them make a token."""

    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 2
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        _, height, width = image.entry("image_grid_thw")
        merge = self.merge_size(image)
        return self.placed("full", (height // merge, width // merge), image.whole())

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        Rows of the pixel input are patches, those of a token one after the other.
        """
        num_patches = int(inputs[self.pixel_input].shape[0])
        grids = torch.as_tensor(inputs["image_grid_thw"]).tolist()
        per_image = [frames * rows * columns for frames, rows, columns in grids]
        if len(grids) != len(layout.views) or sum(per_image) != num_patches:
            raise self.unknown_pixels(inputs[self.pixel_input].shape)
        # Images may differ in the number of patches per token.
        tokens = [
            view.tokens.repeat_interleave(count // view.num_tokens)
            for view, count in zip(layout.views, per_image)
        ]
        return torch.cat(tokens)[:, None]

    def merge_size(self, image: PreparedImage) -> int:
        """Side of the square of patches that makes an image token.

        Raises:
            ValueError: It is not the same for the model and the image processor, which
                puts patches in the order of such squares.
        """
        settings = image.image_processor
        if image.config is None:
            return int(settings.merge_size)
        merge = int(image.config.vision_config.spatial_merge_size)
        if settings is not None and settings.merge_size != merge:
            raise ValueError(
                f"The image processor's merge_size is {settings.merge_size}, but "
                f"{merge} x {merge} patches make a token of the model. Use the same "
                "for both."
            )
        return merge


class MultimodalRopeAdapter(PatchGridAdapter):
    """Image tokens have a row and a column as their positions (M-RoPE).

    The model computes these positions from the type of each token and the grid of each
    image; those of the answer continue from the prompt's.
    """

    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
    }
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw", "mm_token_type_ids")
    position_offset: ClassVar[int | None] = None
