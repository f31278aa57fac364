"""Families whose patches come row by row, whatever the tokens that they make."""

from math import sqrt
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.patch_grid import PatchGridAdapter
from captum_dexar.maps.layout import Rectangle, Size


class RasterGridAdapter(PatchGridAdapter):
    """One grid per image, with plain positions."""

    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    in_raster_order: ClassVar[bool] = True


class KimiK25Adapter(RasterGridAdapter):
    """The image is shrunk if it is large, never stretched, and padded at the bottom and
    at the right until whole tokens cover it."""

    name: ClassVar[str] = "Kimi K2.5"
    model_types: ClassVar[tuple[str, ...]] = ("kimi_k25",)
    processor_types: ClassVar[tuple[str, ...]] = ("Kimi_K25Processor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    pixel_dims: ClassVar[int] = 4

    def merge_of_model(self, config: Any) -> int:
        """See :meth:`PatchGridAdapter.merge_of_model`."""
        merge, across = config.vision_config.merge_kernel_size
        if merge != across:
            raise ValueError(
                f"Patches are merged {merge} x {across}, but Kimi K2.5's image "
                "processor prepares images for squares of patches."
            )
        return int(merge)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        _, height, width = image.entry("image_grid_thw")
        merge = self.merge_size(image)
        rectangle = _padded(image, (height, width))
        return self.placed("full", (height // merge, width // merge), rectangle)


class MuseAdapter(RasterGridAdapter):
    """The image is stretched to a grid near its own."""

    name: ClassVar[str] = "Muse Glimmer, Muse Spark (images)"
    model_types: ClassVar[tuple[str, ...]] = ("muse_glimmer", "muse_spark")
    processor_types: ClassVar[tuple[str, ...]] = (
        "MuseGlimmerProcessor",
        "MuseSparkProcessor",
    )
    # In Muse Spark, 1e-5 in Muse Glimmer.
    largest_error: ClassVar[float] = 5e-5
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"

    windowed_layers: ClassVar[tuple[str, ...]] = (".vision_tower.layers",)

    def merge_of_model(self, config: Any) -> int:
        """See :meth:`PatchGridAdapter.merge_of_model`."""
        return int(config.vision_config.merge_size)

    def vision_windows(self, config: Any) -> tuple[int, int] | None:
        """See :meth:`PatchGridAdapter.vision_windows`; windows are as large as the
        table of positions."""
        return int(config.vision_config.pos_emb_height), 1


class NemotronHOmniAdapter(RasterGridAdapter):
    """The image is stretched to a grid near its own."""

    name: ClassVar[str] = "Nemotron-H Omni (images)"
    model_types: ClassVar[tuple[str, ...]] = ("nemotron_h_omni",)
    processor_types: ClassVar[tuple[str, ...]] = (
        "NemotronH_Omni_Reasoning_V3Processor",
    )
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_hw",)
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_grid_hw",)
    steps_run_on: ClassVar[str] = "one full pass"

    def merge_of_model(self, config: Any) -> int:
        """See :meth:`PatchGridAdapter.merge_of_model`."""
        return round(1 / float(config.downsample_ratio))

    def merge_of_processor(self, image_processor: Any) -> int:
        """See :meth:`PatchGridAdapter.merge_of_processor`."""
        return round(1 / float(image_processor.downsample_ratio))


def _padded(image: PreparedImage, patches: Size) -> Rectangle | None:
    """What the patches cover: the image and its padding, in the image's pixels."""
    settings = image.image_processor
    if image.size is None or settings is None:
        return None
    if not settings.do_resize:
        return image.whole()
    height, width = image.size
    side, most = settings.patch_size, settings.size["max_height"]
    whole_patches = max(1, height // side) * max(1, width // side)
    scale = min(
        1.0,
        sqrt(settings.max_patches / whole_patches),
        most * side / height,
        most * side / width,
    )
    shrunk = [min(max(1, int(edge * scale)), most * side) for edge in image.size]
    bottom = height * patches[0] * side / shrunk[0]
    right = width * patches[1] * side / shrunk[1]
    return 0.0, 0.0, bottom, right
