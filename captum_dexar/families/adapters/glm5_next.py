"""GLM-5 Next (GLM-5.3-Flash)."""

from collections.abc import Mapping
from math import floor
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.patch_grid import PatchGridAdapter
from captum_dexar.maps.layout import Rectangle, Size


class Glm5NextAdapter(PatchGridAdapter):
    """The image is scaled as a whole, and padded at the bottom and at the right until
    whole tokens cover it. Positions are plain."""

    name: ClassVar[str] = "GLM-5 Next (images)"
    model_types: ClassVar[tuple[str, ...]] = ("glm5_next",)
    processor_types: ClassVar[tuple[str, ...]] = ("Glm5NextProcessor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
    }
    steps_run_on: ClassVar[str] = "one full pass"

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        _, height, width = image.entry("image_grid_thw")
        merge = self.merge_size(image)
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            rectangle = _padded(image.image_processor, image.size, (height, width))
        return self.placed("full", (height // merge, width // merge), rectangle)


def _padded(settings: Any, size: Size, patches: Size) -> Rectangle:
    """What the patches cover: the image and its padding, in the image's pixels."""
    if not settings.do_resize:
        return (0.0, 0.0, float(size[0]), float(size[1]))
    height, width = size
    canvas = [count * settings.patch_size for count in patches]
    scale = min(canvas[0] / height, canvas[1] / width)
    factor = settings.patch_size * settings.merge_size * settings.patch_expand_factor
    if height * width >= factor**2 * settings.min_image_tokens:
        scale = min(1.0, scale)
    content = [
        max(1, min(whole, floor(edge * scale))) for edge, whole in zip(size, canvas)
    ]
    return (0.0, 0.0, height * canvas[0] / content[0], width * canvas[1] / content[1])
