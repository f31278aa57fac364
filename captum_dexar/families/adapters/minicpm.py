"""MiniCPM-V 4.6, MiniCPM-V 4.7 and MiniCPM-OCR."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import patch_of
from captum_dexar.families.geometry.tiles import tile_rectangles
from captum_dexar.families.shared.image_blocks import in_sequence, num_blocks_from_first
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size, View
from torch import Tensor


class MiniCPMVAdapter(FamilyAdapter):
    """A copy of the whole image, then slices row by row, each with a grid of its own.

    The pixels are patches side by side, ``(1, channels, patch, patches * patch)``:
    those of all pictures of all examples in one row.
    """

    name: ClassVar[str] = "MiniCPM-V 4.6, MiniCPM-OCR"
    model_types: ClassVar[tuple[str, ...]] = ("minicpmv4_6", "minicpm_ocr")
    processor_types: ClassVar[tuple[str, ...]] = (
        "MiniCPMV4_6Processor",
        "MiniCPMOcrProcessor",
    )
    largest_error: ClassVar[float] = 5e-5
    boxes_checked: ClassVar[str] = (
        "end to end; MiniCPM-OCR: end to end, where torchvision is installed, slices "
        "that keep their own resolution by reading the processor"
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("target_sizes",)
    grid_inputs: ClassVar[tuple[str, ...]] = ("target_sizes",)
    flat_pixels: ClassVar[bool] = True
    steps_run_on: ClassVar[str] = "one full pass"

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        grids = _remaining_grids(image)
        settings = image.image_processor
        if image.size is None or settings is None:
            lengths = [rows * columns for rows, columns in grids]
            grids = grids[: num_blocks_from_first(self, image, lengths)]
            places: list[Rectangle | None] = [None] * len(grids)
        else:
            rows_and_columns = settings.slice_mode and settings.get_sliced_grid(
                image.size, settings.max_slice_nums, settings.scale_resolution
            )
            places = [image.whole()]
            if rows_and_columns:
                places += _slices(image, rows_and_columns, grids[1:])
            grids = grids[: len(places)]
        if len(grids) == 1:
            return in_sequence([View("full", grids[0], places[0])])
        return in_sequence(
            [
                View("tile" if number else "global", *facts)
                for number, facts in enumerate(zip(grids, places))
            ]
        )

    def joined(self, inputs: dict[str, Any], examples: int) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.joined`; the model takes all patches in one row."""
        pixels = inputs[self.pixel_input]
        return {**inputs, self.pixel_input: torch.cat(tuple(pixels), dim=-1)[None]}

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`."""
        patch, shape = patch_of(config), tuple(inputs[self.pixel_input].shape)
        sizes = torch.as_tensor(inputs["target_sizes"]).tolist()
        merge = _merge(inputs, config)
        num_patches = sum(rows * columns for rows, columns in sizes)
        grids = [(rows // merge, columns // merge) for rows, columns in sizes]
        is_known = grids == [view.grid for view in layout.views]
        if not is_known or patch is None or shape[-1] != num_patches * patch[1]:
            raise self.unknown_pixels(shape)
        tokens = [
            view.tokens.view(view.grid)
            .repeat_interleave(merge, 0)
            .repeat_interleave(merge, 1)
            .flatten()
            for view in layout.views
        ]
        of_pixel = torch.cat(tokens).repeat_interleave(patch[1])
        return of_pixel.expand(1, 1, patch[0], -1)

    def vision_order(
        self, layer: str, inputs: Mapping[str, Any], config: Any
    ) -> Tensor | None:
        """See :meth:`FamilyAdapter.vision_order`; windows of patches attend first."""
        if ".vit_merger.self_attn" not in layer:
            return None
        height, width = config.vision_config.window_kernel_size
        orders, start = [], 0
        for rows, columns in torch.as_tensor(inputs["target_sizes"]).tolist():
            order = torch.arange(start, start + rows * columns).view(rows, columns)
            windows = order.unflatten(1, (-1, width)).unflatten(0, (-1, height))
            orders.append(windows.transpose(1, 2).flatten())
            start += rows * columns
        return torch.cat(orders)


class MiniCPMV47Adapter(MiniCPMVAdapter):
    """Tokens have places on the canvas of the slices as their positions (M-RoPE)."""

    name: ClassVar[str] = "MiniCPM-V 4.7"
    model_types: ClassVar[tuple[str, ...]] = ("minicpmv4_7",)
    processor_types: ClassVar[tuple[str, ...]] = ("MiniCPMV4_7Processor",)
    largest_error: ClassVar[float] = 1e-5
    boxes_checked: ClassVar[str] = "end to end"
    required_inputs: ClassVar[tuple[str, ...]] = ("target_sizes", "mm_token_type_ids")
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
    }
    position_offset: ClassVar[int | None] = None


def _merge(inputs: Mapping[str, Any], facts: Any) -> int:
    """Side of the square of patches that makes a token."""
    mode = inputs.get("downsample_mode") or facts.downsample_mode
    return 2 if mode == "4x" else 4


def _remaining_grids(image: PreparedImage) -> list[Size]:
    """Rows and columns of tokens of this image's pictures and all later ones."""
    facts = image.image_processor if image.config is None else image.config
    merge = _merge(image.inputs, facts)
    sizes = torch.as_tensor(image.inputs["target_sizes"]).tolist()
    # The pictures of a batch's examples follow each other.
    sizes = sizes[: len(sizes) // len(image.inputs["input_ids"])]
    grids = [(rows // merge, columns // merge) for rows, columns in sizes]
    remaining = image.remaining_tokens
    for first in range(len(grids) - 1, -1, -1):
        remaining -= grids[first][0] * grids[first][1]
        if remaining <= 0:
            break
    if not grids or remaining:
        raise ValueError(
            f"The prompt has {image.remaining_tokens} image tokens for pictures of "
            f"{' and '.join(f'{r} x {c}' for r, c in grids) or 'no'} tokens (from "
            f"target_sizes, with {merge} x {merge} patches a token). Prepare image and "
            "prompt together with the processor that belongs to the model, and give "
            "processor and model the same downsample_mode."
        )
    return grids[first:]


def _slices(
    image: PreparedImage, rows_and_columns: Sequence[int], grids: Sequence[Size]
) -> list[Rectangle | None]:
    """The slices of the stretched image.

    A slice that keeps its own resolution is cut at whole pixels of the original.
    """
    assert image.size is not None
    rows, columns = rows_and_columns
    places: list[Rectangle | None] = [*tile_rectangles(image.size, rows, columns, 1.0)]
    settings = image.image_processor
    if getattr(settings, "small_image_upsize", None) != "adaptive":
        return places
    stretched = settings.get_refine_size(
        image.size,
        rows_and_columns,
        settings.scale_resolution,
        settings.patch_size,
        settings.downsample_mode,
        allow_upscale=True,
    )
    side = settings.patch_size * (2 if settings.downsample_mode == "4x" else 4)
    stretched_grid = (stretched[0] // rows // side, stretched[1] // columns // side)
    for number, (place, grid) in enumerate(zip(places, grids)):
        if grid != stretched_grid and place is not None:
            y0, x0, y1, x1 = (float(round(edge)) for edge in place)
            places[number] = (y0, x0, y1, x1)
    return places
