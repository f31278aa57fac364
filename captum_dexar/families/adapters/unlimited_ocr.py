"""Unlimited-OCR."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import ImageLayout, Rectangle, View
from torch import Tensor


class UnlimitedOcrAdapter(FamilyAdapter):
    """Tiles of the stretched image as one canvas, then a copy of the whole.

    Every row of both ends with a newline, and a separator ends the image; these have
    the placeholder of image tokens, but no place. Convolutions of stride 2 make a token
    of 4 x 4 patches, which is its box; it sees four more above and to the left, and one
    below and to the right.
    """

    name: ClassVar[str] = "Unlimited-OCR"
    model_types: ClassVar[tuple[str, ...]] = ("unlimited_ocr",)
    processor_types: ClassVar[tuple[str, ...]] = ("UnlimitedOcrProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end with the vision tower's attention silenced, where torchvision is "
        "installed; convolutions also see a box more above and to the left"
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("num_local_patches", "patches_grid")
    flat_pixels: ClassVar[bool] = True
    steps_run_on: ClassVar[str] = "one full pass"

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        pixels = _token_pixels(image)
        size = int(image.inputs["pixel_values"].shape[-1])
        side = -(-size // pixels)
        views, count = [], 0
        if image.entry("num_local_patches"):
            tile = int(image.inputs["pixel_values_local"].shape[-1])
            if tile % pixels:
                raise ValueError(
                    f"Tiles of {tile} x {tile} pixels are not filled by tokens of "
                    f"{pixels} x {pixels}, so that where the tokens lie is not known. "
                    f"Use a tile_size that is a multiple of {pixels}."
                )
            grid_columns, grid_rows = image.entry("patches_grid")
            rows, columns = (n * (tile // pixels) for n in (grid_rows, grid_columns))
            canvas = View("tile", (rows, columns), image.whole())
            views.append(_with_newlines(canvas))
            count = rows * (columns + 1)
        copy = View(
            "global" if views else "full",
            (side, side),
            _copy(image, size, side * pixels / size),
            count,
        )
        views.append(_with_newlines(copy))
        return ImageTokens(count + side * (side + 1) + 1, tuple(views))

    def joined(self, inputs: dict[str, Any], examples: int) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.joined`; lists are those of one example."""
        lists = {
            name: value * examples
            for name, value in inputs.items()
            if name in self.required_inputs and isinstance(value, list)
        }
        return {**inputs, **lists}

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        Tiles are another input of the model.
        """
        if inputs.get("pixel_values_local") is not None:
            raise self.unknown_pixels(inputs[self.pixel_input].shape)
        return super().token_of_pixel_input(inputs, layout, config)


def _with_newlines(view: View) -> View:
    return View(
        view.name, view.grid, view.rectangle, view.start, row_stride=view.grid[1] + 1
    )


def _token_pixels(image: PreparedImage) -> int:
    """Pixels along the side of a token."""
    if image.config is None:
        return int(image.processor.patch_size * image.processor.downsample_ratio)
    sam = image.config.vision_config.sam_config
    return int(sam.patch_size) << len(sam.downsample_channels)


def _copy(image: PreparedImage, size: int, seen: float) -> Rectangle | None:
    """What the copy covers: the image at the centre of a square, or stretched to it.

    Args:
        image (PreparedImage): the image
        size (int): pixels along the side of the square
        seen (float): the part of its side that tokens cover
    """
    settings = image.image_processor
    if image.size is None or settings is None:
        return None
    height, width = image.size
    if not settings.crop_to_patches and size <= settings.maximum_pad_value:
        return (0.0, 0.0, seen * height, seen * width)
    edges = []
    for length in (height, width):
        resized = round(length * (size / max(height, width)))
        scale = length / resized
        first = -((size - resized) // 2) * scale
        edges.append((first, first + seen * size * scale))
    return (edges[0][0], edges[1][0], edges[0][1], edges[1][1])
