"""Step-3.7."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.tiles import merged_tokens, tile_rectangles
from captum_dexar.families.shared.image_blocks import in_sequence
from captum_dexar.maps.layout import ImageLayout, Rectangle, View
from torch import Tensor

# Two convolutions of stride 2 after the patches.
PATCHES_ACROSS_TOKEN = 4
WINDOWS = "pixel_values_local"


class Step3p7Adapter(FamilyAdapter):
    """Windows of the image, which are in an input of their own, then a copy of it.

    The image is stretched until windows fill it; a thin one is padded to a square at
    the bottom or at the right. Small images that are nearly square have no windows. As
    for GOT-OCR 2, a token's box is its cell of patches.
    """

    name: ClassVar[str] = "Step-3.7"
    model_types: ClassVar[tuple[str, ...]] = ("step3p7",)
    processor_types: ClassVar[tuple[str, ...]] = ("Step3p7Processor",)
    boxes_checked: ClassVar[str] = (
        "end to end with the vision tower's attention silenced, where torchvision is "
        "installed; convolutions also see three quarters of a box more above and to "
        "the left"
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("num_local_patches",)
    grid_inputs: ClassVar[tuple[str, ...]] = ("num_local_patches",)
    # One row per image.
    flat_pixels: ClassVar[bool] = True

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        num_windows = int(image.entry("num_local_patches"))
        side, seen = _tokens_across(image, self.pixel_input)
        grid = (side, side)
        parts: list[Rectangle | None] = [None] * num_windows
        whole: Rectangle | None = None
        if image.size is not None and image.image_processor is not None:
            settings = image.image_processor
            plan = settings._plan_patches(
                image.size[1],
                image.size[0],
                settings.size["height"],
                settings.patch_size,
            )
            columns, rows, is_padded = plan[3:]
            longest = max(image.size)
            covered = (longest, longest) if is_padded else image.size
            whole = tile_rectangles(covered, 1, 1, seen)[0]
            if num_windows:
                windows_seen = _tokens_across(image, WINDOWS)[1]
                parts = [*tile_rectangles(covered, rows, columns, windows_seen)]
        if not parts:
            return self.placed("full", grid, whole)
        window_side, _ = _tokens_across(image, WINDOWS)
        views = [View("tile", (window_side, window_side), part) for part in parts]
        return in_sequence([*views, View("global", grid, whole)])

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`."""
        if inputs.get(WINDOWS) is None:
            return super().token_of_pixel_input(inputs, layout, config)
        raise TypeError(
            f"{self.name} sees the image in two inputs, {self.pixel_input} and "
            f"{WINDOWS}, so that an attribution of one of them is not that of the "
            "image. Use a method on the image tokens' boxes (FeatureAblation with an "
            "ImagePromptInput) or on layers."
        )


def _tokens_across(image: PreparedImage, pixels: str) -> tuple[int, float]:
    """Tokens along the side of a picture, and the part of the side that they cover."""
    picture = int(image.inputs[pixels].shape[-1])
    if image.config is None:
        patch = int(image.processor.image_processor.vision_patch_size)
    else:
        patch = int(image.config.vision_config.patch_size)
    return merged_tokens(picture, patch, PATCHES_ACROSS_TOKEN)
