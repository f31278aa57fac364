"""Gemma 4 and Gemma 4 Unified."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import ImageLayout
from torch import Tensor


class Gemma4Adapter(FamilyAdapter):
    """One grid per image, of nearly its aspect ratio, with several patches per
    token."""

    name: ClassVar[str] = "Gemma 4"
    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    processor_types: ClassVar[tuple[str, ...]] = ("Gemma4Processor",)
    largest_error: ClassVar[float] = 5e-5
    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 3
    required_inputs: ClassVar[tuple[str, ...]] = ("mm_token_type_ids",)

    def inputs_required_by(self, config: Any) -> tuple[str, ...]:
        """See :meth:`FamilyAdapter.inputs_required_by`.

        Types of tokens matter where image tokens attend to each other in both
        directions.
        """
        text = config.get_text_config()
        is_bidirectional = getattr(text, "use_bidirectional_attention", None)
        return self.required_inputs if is_bidirectional == "vision" else ()

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        pooled = self.pooled_patches(image.config, image.image_processor)
        # Columns come first; patches that pad the tensor are at -1.
        columns, rows = (
            max(place) + 1 for place in zip(*image.entry("image_position_ids"))
        )
        return self.placed("full", (rows // pooled, columns // pooled), image.whole())

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`; rows are patches."""
        pooled = self.pooled_patches(config, None)
        places = torch.as_tensor(inputs["image_position_ids"]).cpu()
        if len(places) != len(layout.views):
            raise self.unknown_pixels(inputs[self.pixel_input].shape)
        tokens = []
        for view, place in zip(layout.views, places):
            columns, rows = (place // pooled).clamp(min=0).unbind(-1)
            of_patch = view.tokens.view(view.grid)[rows, columns]
            tokens.append(of_patch.where((place >= 0).all(-1), -1))
        return torch.stack(tokens)[..., None]

    def pooled_patches(self, config: Any, image_processor: Any) -> int:
        """Side of the square of patches that makes an image token."""
        known = image_processor if config is None else config.vision_config
        return int(known.pooling_kernel_size)


class Gemma4UnifiedAdapter(Gemma4Adapter):
    """There is no vision tower: a patch of the image processor's is a token."""

    name: ClassVar[str] = "Gemma 4 Unified (images)"
    model_types: ClassVar[tuple[str, ...]] = ("gemma4_unified",)
    processor_types: ClassVar[tuple[str, ...]] = ("Gemma4UnifiedProcessor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"

    def pooled_patches(self, config: Any, image_processor: Any) -> int:
        """See :meth:`Gemma4Adapter.pooled_patches`."""
        return 1
