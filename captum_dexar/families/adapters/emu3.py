"""Emu3, which turns an image into tokens of its vocabulary."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size, View
from torch import Tensor


class Emu3Adapter(FamilyAdapter):
    """A grid over the whole stretched image, whose rows end with a line break.

    Line breaks have the placeholder of image tokens, but no place. Images of a prompt
    are padded on the right and at the bottom to the largest; padding makes no tokens.
    """

    name: ClassVar[str] = "Emu3"
    model_types: ClassVar[tuple[str, ...]] = ("emu3",)
    processor_types: ClassVar[tuple[str, ...]] = ("Emu3Processor",)
    boxes_checked: ClassVar[str] = (
        "end to end with the image encoder's attention, norms and blocks silenced"
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("image_sizes",)
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_sizes",)
    flat_pixels: ClassVar[bool] = True

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        resized = image.entry("image_sizes")
        if image.config is None:
            side = int(image.processor.downsample_ratio)
        else:
            side = self.pixel_patch(image.config)[0]
        rows, columns = (length // side for length in resized)
        rectangle: Rectangle | None = None
        if image.size is not None:
            bottom, right = (
                cells * side / length * pixels
                for cells, length, pixels in zip((rows, columns), resized, image.size)
            )
            rectangle = (0.0, 0.0, bottom, right)
        view = View("full", (rows, columns), rectangle, row_stride=columns + 1)
        return ImageTokens(rows * (columns + 1), (view,))

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`."""
        shape = tuple(inputs[self.pixel_input].shape)
        if len(shape) != 4 or shape[0] != len(layout.views):
            raise self.unknown_pixels(shape)
        height, width = self.pixel_patch(config)
        token = torch.full((shape[0], 1, *shape[2:]), -1)
        for picture, view in zip(token, layout.views):
            of_pixel = view.tokens.view(view.grid)
            of_pixel = of_pixel.repeat_interleave(height, 0)
            of_pixel = of_pixel.repeat_interleave(width, 1)
            picture[0, : len(of_pixel), : of_pixel.shape[1]] = of_pixel
        return token

    def pixel_patch(self, config: Any) -> Size:
        """See :meth:`FamilyAdapter.pixel_patch`."""
        side = 1 << len(config.vq_config.channel_multiplier) - 1
        return side, side
