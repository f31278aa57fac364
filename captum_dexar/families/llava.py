"""LLaVA-1.5, BakLLaVA (a LLaVA with a Mistral text model) and ViP-LLaVA."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.geometry import resized_crop
from captum_dexar.layout import ImageLayout, View


class LlavaAdapter(FamilyAdapter):
    """One image, one grid of patches; resized, cropped or padded as by CLIP."""

    model_types: ClassVar[tuple[str, ...]] = ("llava", "vipllava")
    processor_types: ClassVar[tuple[str, ...]] = ("LlavaProcessor",)

    def layout(
        self,
        inputs: Mapping[str, Any],
        num_tokens: int,
        *,
        image_size: tuple[int, int] | None,
        processor: Any = None,
        config: Any = None,
    ) -> ImageLayout:
        """See :meth:`FamilyAdapter.layout`."""
        patch_size = (
            processor.patch_size if config is None else config.vision_config.patch_size
        )
        height, width = inputs["pixel_values"].shape[-2:]
        grid = (height // patch_size, width // patch_size)
        # Without the "default" selection the vision tower's CLS token comes first.
        num_placeless = num_tokens - grid[0] * grid[1]
        if num_placeless not in (0, 1):
            raise ValueError(
                f"The prompt has {num_tokens} image tokens, but an image of "
                f"{height} x {width} pixels in patches of {patch_size} makes a grid of "
                f"{grid[0]} x {grid[1]} = {grid[0] * grid[1]}. Use one image a prompt, "
                "with the processor that belongs to the model."
            )
        rectangle = None
        if image_size is not None and processor is not None:
            seen_size = (grid[0] * patch_size, grid[1] * patch_size)
            rectangle = resized_crop(processor.image_processor, image_size, seen_size)
        view = View("full", grid, rectangle, start=num_placeless)
        return ImageLayout(num_tokens, (view,), image_size)
