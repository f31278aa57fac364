"""Llama 4."""

from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.tiles import tile_rectangles
from captum_dexar.families.shared.image_blocks import (
    blank_processed,
    in_sequence,
    num_blocks,
    unplaced_blocks,
)
from captum_dexar.maps.layout import Rectangle, Size, View


class Llama4Adapter(FamilyAdapter):
    """Tiles of a canvas that holds the image, then a stretched copy of the whole."""

    name: ClassVar[str] = "Llama 4"
    model_types: ClassVar[tuple[str, ...]] = ("llama4",)
    processor_types: ClassVar[tuple[str, ...]] = ("Llama4Processor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    class_token_is_last: ClassVar[bool] = True
    flat_pixels: ClassVar[bool] = True

    def image_token_id(self, processor: Any) -> int:
        """See :meth:`FamilyAdapter.image_token_id`.

        ``processor.image_token_id`` is another, the marker of the whole image.
        """
        return int(processor.tokenizer.convert_tokens_to_ids(processor.img_patch_token))

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        grid = self._grid(image)
        if image.size is None or image.image_processor is None:
            length = grid[0] * grid[1]
            lengths = [length] * (image.remaining_tokens // length)
            blocks = num_blocks(self, image, lengths, offset=-1)
            return unplaced_blocks([grid] * blocks, last="global")
        tiles = _tile_rectangles(image, image.size)
        if len(tiles) == 1:
            return self.placed("full", grid, tiles[0])
        views = [View("tile", grid, rectangle) for rectangle in tiles]
        return in_sequence([*views, View("global", grid, image.whole())])

    def _grid(self, image: PreparedImage) -> Size:
        """Rows and columns of a block's tokens."""
        height, width = image.inputs["pixel_values"].shape[-2:]
        if image.config is None:
            patch = image.processor.patch_size
            merged = side_of(image.processor.downsample_ratio)
        else:
            patch = image.config.vision_config.patch_size
            merged = round(1 / image.config.vision_config.pixel_shuffle_ratio)
        return height // patch // merged, width // patch // merged


def _tile_rectangles(image: PreparedImage, size: Size) -> list[Rectangle]:
    """What the tiles cover, including padding.

    The image is resized to fit the canvas, and is at its top left corner: a white image
    shows how much of the canvas it fills.
    """
    processed = blank_processed(image, color="white")
    rows, columns = processed["aspect_ratios"][0].tolist()
    tiles = processed["pixel_values"][: rows * columns, 0]
    is_white = (tiles == tiles.max()).unflatten(0, (rows, columns))
    canvas = is_white.transpose(1, 2).flatten(2).flatten(0, 1)
    height = canvas.shape[0] * size[0] / int(canvas[:, 0].sum())
    width = canvas.shape[1] * size[1] / int(canvas[0].sum())
    return tile_rectangles((height, width), rows, columns, seen=1.0)
