"""DeepSeek-OCR 2: queries behind the patches, in an encoder of both."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.canvas import centred_on_square
from captum_dexar.families.geometry.tiles import seen_part, tile_rectangles
from captum_dexar.families.shared.image_blocks import in_sequence
from captum_dexar.families.shared.queries import (
    found_places,
    QueryAdapter,
    QueryAttention,
)
from captum_dexar.families.shared.rollout import rolled_out
from captum_dexar.families.shared.tiles import function_of
from captum_dexar.maps.layout import ImageLayout, View
from torch import Tensor

# Two convolutions with a stride of two.
MERGED = 4


class DeepseekOcr2Adapter(QueryAdapter):
    """Tiles of the stretched image, if it is large, then a copy of the whole. Each has
    queries of its own. A separator, which has no place, ends the image.
    """

    name: ClassVar[str] = "DeepSeek-OCR 2"
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_ocr2",)
    processor_types: ClassVar[tuple[str, ...]] = ("DeepseekOcr2Processor",)
    reader: ClassVar[str] = "the encoder"
    boxes_checked: ClassVar[str] = found_places("11 of 64 queries (16 cells)")
    required_inputs: ClassVar[tuple[str, ...]] = ("num_local_patches",)
    flat_pixels: ClassVar[bool] = True

    def num_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`QueryAdapter.num_vision_tokens`; those of a copy."""
        return _side(inputs["pixel_values"], config) ** 2

    def num_all_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`QueryAdapter.num_all_vision_tokens`."""
        copies = len(inputs["pixel_values"])
        count = copies * (self.num_vision_tokens(inputs, config) + 1)
        tiles = inputs.get("pixel_values_local")
        if tiles is not None:
            count += len(tiles) * _side(tiles, config) ** 2
        return count

    def num_runs(self, inputs: Mapping[str, Any]) -> int:
        """See :meth:`QueryAdapter.num_runs`; of the copies, then of the tiles."""
        return 1 if inputs.get("pixel_values_local") is None else 2

    def attentions(self, model: Any) -> list[QueryAttention]:
        """See :meth:`QueryAdapter.attentions`."""
        layers = model.model.vision_tower.vision_encoder.layers
        return [QueryAttention(layer.self_attn, "both") for layer in layers]

    def shares(
        self, read: list[tuple[str, Tensor]], inputs: Mapping[str, Any], config: Any
    ) -> Tensor:
        """See :meth:`QueryAdapter.shares`."""
        probabilities = [attention for _, attention in read]
        per_run = len(read) // self.num_runs(inputs)
        copies = rolled_out(
            probabilities[:per_run], self.num_vision_tokens(inputs, config)
        )
        counts = torch.as_tensor(inputs["num_local_patches"]).tolist()
        tiles: list[list[Tensor]] = [[] for _ in counts]
        if per_run < len(read):
            size = _side(inputs["pixel_values_local"], config) ** 2
            every = rolled_out(probabilities[per_run:], size)
            tiles = [list(of_image) for of_image in every.split(counts)]
        separator = copies.new_ones(1, 1)
        shares: Tensor = torch.block_diag(
            *(
                block
                for index, copy in enumerate(copies)
                for block in (*tiles[index], copy, separator)
            )
        )
        return shares

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        copy = image.inputs["pixel_values"]
        side, settings = _side(copy, image.config), image.image_processor
        size = image.size if settings is not None else None
        views = []
        count = int(image.entry("num_local_patches"))
        if count:
            tiles = image.inputs["pixel_values_local"]
            across = _side(tiles, image.config)
            rectangles: Any = [None] * count
            if size is not None:
                columns, rows = function_of(settings, "get_optimal_tiled_canvas")(
                    size,
                    (settings.tile_size, settings.tile_size),
                    settings.min_patches,
                    settings.max_patches,
                )
                seen = _seen(tiles, across, image.config)
                rectangles = tile_rectangles(size, rows, columns, seen)
            views = [View("tile", (across, across), where) for where in rectangles]
        whole = None
        if size is not None:
            whole = centred_on_square(size, _seen(copy, side, image.config))
        views.append(View("global" if count else "full", (side, side), whole))
        placed = in_sequence(views)
        return ImageTokens(placed.count + 1, placed.views)

    def joined(self, inputs: dict[str, Any], examples: int) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.joined`; a list is that of one example."""
        counts = inputs.get("num_local_patches")
        if isinstance(counts, list):
            return {**inputs, "num_local_patches": counts * examples}
        return inputs

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        Tiles are another input of the model.
        """
        if inputs.get("pixel_values_local") is not None:
            raise self.unknown_pixels(inputs[self.pixel_input].shape)
        return super().token_of_pixel_input(inputs, layout, config)

    def pixel_patch(self, config: Any) -> tuple[int, int]:
        """See :meth:`FamilyAdapter.pixel_patch`."""
        return (_token_pixels(config),) * 2


def _token_pixels(config: Any) -> int:
    """Pixels along the side of a patch that queries read."""
    return int(config.vision_config.sam_config.patch_size) * MERGED


def _side(pixels: Tensor, config: Any) -> int:
    """Patches along the side of a picture."""
    return -(-int(pixels.shape[-1]) // _token_pixels(config))


def _seen(pixels: Tensor, side: int, config: Any) -> float:
    """The part of a picture's side that its patches cover."""
    return seen_part(side, _token_pixels(config), int(pixels.shape[-1]))
