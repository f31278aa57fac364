"""Perception LM, for images."""

from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.tiles import seen_part, tile_rectangles
from captum_dexar.families.shared.image_blocks import in_sequence, known_token_id
from captum_dexar.maps.layout import Rectangle, Size, View


class PerceptionLMAdapter(FamilyAdapter):
    """A copy of the image and then its tiles, even if there is only one.

    All images of a prompt have the same number of tiles: their pixels are one tensor.
    The configuration of its vision tower has no patch size.
    """

    name: ClassVar[str] = "Perception LM (images)"
    model_types: ClassVar[tuple[str, ...]] = ("perception_lm",)
    processor_types: ClassVar[tuple[str, ...]] = ("PerceptionLMProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end, where torchvision is installed, with another vision tower in "
        "place of timm's"
    )
    # (images, pictures of an image, channels, height, width)
    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 5

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        num_images, num_pictures, _, tile, _ = image.inputs[self.pixel_input].shape
        is_image = image.inputs["input_ids"] == known_token_id(self, image)
        side = side_of(int(is_image.sum()) // (num_images * num_pictures))
        rectangles: list[Rectangle | None] = [None] * num_pictures
        if image.size is not None and image.image_processor is not None:
            seen = 1.0
            if image.processor is not None:
                patch = int(image.processor.patch_size)
                seen = seen_part(tile // patch, patch, tile)
            rectangles = [*tile_rectangles(image.size, 1, 1, seen)]
            if num_pictures > 1:
                rows, columns = _tile_grid(image.image_processor, image.size)
                rectangles += tile_rectangles(image.size, rows, columns, seen)
        if num_pictures == 1:
            return self.placed("full", (side, side), rectangles[0])
        names = ["global"] + ["tile"] * (len(rectangles) - 1)
        return in_sequence(
            [View(name, (side, side), part) for name, part in zip(names, rectangles)]
        )


def _tile_grid(settings: Any, image_size: Size) -> Size:
    """Rows and columns of tiles, as the image processor chooses them."""
    if settings.max_num_tiles == 1:
        return 1, 1
    asked = {
        "img_width": image_size[1],
        "img_height": image_size[0],
        "tile_size": settings.tile_size,
    }
    columns, rows = settings._fit_image_to_canvas(
        **asked
    ) or settings._find_closest_aspect_ratio(**asked)
    return int(rows), int(columns)
