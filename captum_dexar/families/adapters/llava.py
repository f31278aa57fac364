"""LLaVA-1.5, BakLLaVA (a LLaVA with a Mistral text model) and ViP-LLaVA."""

from typing import ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.maps.layout import View


class LlavaAdapter(FamilyAdapter):
    """One grid of patches per image, which is resized, cropped or padded as by CLIP."""

    name: ClassVar[str] = "LLaVA-1.5, BakLLaVA, ViP-LLaVA"
    model_types: ClassVar[tuple[str, ...]] = ("llava", "vipllava")
    processor_types: ClassVar[tuple[str, ...]] = ("LlavaProcessor",)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        config, processor = image.config, image.processor
        patch_size = (
            processor.patch_size if config is None else config.vision_config.patch_size
        )
        height, width = image.inputs[self.pixel_input].shape[-2:]
        grid = (height // patch_size, width // patch_size)
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            seen_size = (grid[0] * patch_size, grid[1] * patch_size)
            rectangle = resized_crop(image.image_processor, image.size, seen_size)
        # Except with the "default" selection the vision tower's CLS token comes first.
        # ViP-LLaVA has no such setting, and never keeps that token.
        known = processor if config is None else config
        strategy = getattr(known, "vision_feature_select_strategy", "default")
        # FastVLM, which has the same processor, has no such token.
        num_class_tokens = (
            processor.num_additional_image_tokens if config is None else 1
        )
        num_placeless = num_class_tokens - int(strategy == "default")
        view = View("full", grid, rectangle, start=num_placeless)
        return ImageTokens(num_placeless + view.num_tokens, (view,))
