"""Families whose processor returns the grid of patches of each image."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import picked, spread
from captum_dexar.maps.layout import ImageLayout, View
from torch import Tensor


class PatchGridAdapter(FamilyAdapter):
    """The whole image, stretched to a grid of patches; squares of them make a token.

    The first of ``grid_inputs`` ends with the number of rows and columns of patches.

    Attributes:
        in_raster_order (bool): whether the rows of the pixel input are the patches row
            by row, rather than those of a token one after the other
        windowed_layers (tuple of str): parts of the names of those layers of the vision
            tower whose tokens are ordered by attention window, if there are windows
    """

    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 2
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    in_raster_order: ClassVar[bool] = False
    windowed_layers: ClassVar[tuple[str, ...]] = ()

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        *_, height, width = image.entry(self.grid_inputs[0])
        merge = self.merge_size(image)
        return self.placed("full", (height // merge, width // merge), image.whole())

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`; rows are patches."""
        shape = inputs[self.pixel_input].shape
        grids = torch.as_tensor(inputs[self.grid_inputs[0]]).tolist()
        if len(grids) != len(layout.views) or sum(map(prod, grids)) != shape[0]:
            raise self.unknown_pixels(shape)
        # Images may differ in the number of patches per token.
        tokens = [self._of_patches(*pair) for pair in zip(layout.views, grids)]
        return torch.cat(tokens).view(-1, *[1] * (len(shape) - 1))

    def _of_patches(self, view: View, grid: Sequence[int]) -> Tensor:
        """The token of each patch of an image, in the order of the pixel input."""
        if not self.in_raster_order:
            return view.tokens.repeat_interleave(prod(grid) // view.num_tokens)
        cells = [spread(*sides) for sides in zip(grid[-2:], view.grid)]
        return picked(view.tokens.view(view.grid), *cells).flatten()

    def vision_order(
        self, layer: str, inputs: Mapping[str, Any], config: Any
    ) -> Tensor | None:
        """See :meth:`FamilyAdapter.vision_order`."""
        windows = self.vision_windows(config)
        # Before transformers 5.23 Qwen2.5-Omni's tower is not part of ``model.model``.
        path = f".{layer}"
        if windows is None or not any(name in path for name in self.windowed_layers):
            return None
        window, run = windows
        grids = torch.as_tensor(inputs[self.grid_inputs[0]])
        return window_order((grids // torch.tensor([1, run, run])).tolist(), window)

    def vision_windows(self, config: Any) -> tuple[int, int] | None:
        """Side of an attention window of the vision tower, and of the squares of
        patches that it is counted in; None if there are no windows."""
        vision = config.vision_config
        window_size = getattr(vision, "window_size", None)
        if window_size is None:
            return None
        merge = self.merge_of_model(config)
        return window_size // merge // vision.patch_size, merge

    def merge_size(self, image: PreparedImage) -> int:
        """Side of the square of patches that makes an image token.

        Raises:
            ValueError: It is not the same for the model and the image processor, which
                puts patches in the order of such squares.
        """
        settings = image.image_processor
        if image.config is None:
            return self.merge_of_processor(settings)
        merge = self.merge_of_model(image.config)
        if settings is not None and self.merge_of_processor(settings) != merge:
            raise ValueError(
                "The image processor's merge_size is "
                f"{self.merge_of_processor(settings)}, but {merge} x {merge} patches "
                "make a token of the model. Use the same for both."
            )
        return merge

    def merge_of_model(self, config: Any) -> int:
        """The merge size in a model's configuration."""
        return int(config.vision_config.spatial_merge_size)

    def merge_of_processor(self, image_processor: Any) -> int:
        """The merge size of an image processor."""
        return int(image_processor.merge_size)


def window_order(grids: Sequence[Sequence[int]], window: int) -> Tensor:
    """Indices of tokens in the order of square windows of the grids that they are in.

    Args:
        grids (sequence): frames, rows and columns of each image
        window (int): side of a window, in tokens
    """
    orders: list[Tensor] = []
    start = 0
    for frames, height, width in grids:
        rows, columns = torch.arange(height), torch.arange(width)
        across = -(-width // window)
        # A window's number goes up row by row, frame by frame; within a window tokens
        # stay in order.
        number = (rows // window)[:, None] * across + columns // window
        frame = torch.arange(frames)[:, None, None] * (number.max() + 1)
        order = (frame + number).flatten().argsort(stable=True)
        orders.append(order + start)
        start += len(order)
    return torch.cat(orders)


class MultimodalRopeAdapter(PatchGridAdapter):
    """Image tokens have a row and a column as their positions (M-RoPE).

    The model computes these positions from the type of each token and the grid of each
    image; those of the answer continue from the prompt's.
    """

    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw", "mm_token_type_ids")
    position_offset: ClassVar[int | None] = None
