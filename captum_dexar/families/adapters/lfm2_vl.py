"""LFM2-VL."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import cells_of_pixels, picked
from captum_dexar.families.geometry.tiles import tile_rectangles
from captum_dexar.families.shared.image_blocks import (
    blank_processed,
    in_sequence,
    known_token_id,
    num_blocks,
    unplaced_blocks,
)
from captum_dexar.maps.layout import ImageLayout, Size, View
from torch import Tensor


class Lfm2VlAdapter(FamilyAdapter):
    """Tiles of the stretched image, then a copy of the whole at a size of its own."""

    name: ClassVar[str] = "LFM2-VL"
    model_types: ClassVar[tuple[str, ...]] = ("lfm2_vl",)
    processor_types: ClassVar[tuple[str, ...]] = ("Lfm2VlProcessor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 3

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        factor = (
            image.image_processor.downsample_factor
            if image.config is None
            else image.config.downsample_factor
        )

        def grids_of(spatial_shapes: Tensor) -> list[Size]:
            return [(h // factor, w // factor) for h, w in spatial_shapes.tolist()]

        if image.size is None or image.image_processor is None:
            return self._without_size(image, grids_of(image.inputs["spatial_shapes"]))
        processed = blank_processed(image, return_row_col_info=True)
        grids = grids_of(processed["spatial_shapes"])
        if len(grids) == 1:
            return self.placed("full", grids[0], image.whole())
        rows, columns = int(processed["image_rows"][0]), int(processed["image_cols"][0])
        tiles = tile_rectangles(image.size, rows, columns, seen=1.0)
        views = [View("tile", grids[0], rectangle) for rectangle in tiles]
        if len(grids) > rows * columns:
            views.append(View("global", grids[-1], image.whole()))
        return in_sequence(views)

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        Rows are patches; those of smaller pictures are padded.
        """
        shape = inputs[self.pixel_input].shape
        grids = torch.as_tensor(inputs["spatial_shapes"]).tolist()
        if len(grids) != len(layout.views):
            raise self.unknown_pixels(shape)
        factor = int(config.downsample_factor)
        token = torch.full((len(grids), shape[1], 1), -1)
        for index, (view, grid) in enumerate(zip(layout.views, grids)):
            cells = [cells_of_pixels(n, n // factor, factor) for n in grid]
            of_patch = picked(view.tokens.view(view.grid), *cells).flatten()
            token[index, : len(of_patch), 0] = of_patch
        return token

    def _without_size(self, image: PreparedImage, grids: list[Size]) -> ImageTokens:
        """The tokens of an image, given the grids of all blocks of the prompt."""
        token = known_token_id(self, image)
        total = int((image.inputs["input_ids"][0] == token).sum())
        remaining, start = [], 0
        for grid in grids:
            if total - image.remaining_tokens <= start < total:
                remaining.append(grid)
            start += grid[0] * grid[1]
        lengths = [rows * columns for rows, columns in remaining]
        count = num_blocks(self, image, lengths, offset=1)
        has_copy = getattr(image.image_processor, "use_thumbnail", True)
        return unplaced_blocks(remaining[:count], last="global" if has_copy else "tile")
