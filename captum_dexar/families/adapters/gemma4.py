"""Gemma 4."""

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
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
    }

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
        pooled = (
            image.image_processor.pooling_kernel_size
            if image.config is None
            else image.config.vision_config.pooling_kernel_size
        )
        # Columns come first; patches that pad the tensor are at -1.
        columns, rows = (
            max(place) + 1 for place in zip(*image.entry("image_position_ids"))
        )
        return self.placed("full", (rows // pooled, columns // pooled), image.whole())

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`; rows are patches."""
        pooled = int(config.vision_config.pooling_kernel_size)
        places = torch.as_tensor(inputs["image_position_ids"]).cpu()
        if len(places) != len(layout.views):
            raise self.unknown_pixels(inputs[self.pixel_input].shape)
        tokens = []
        for view, place in zip(layout.views, places):
            columns, rows = (place // pooled).clamp(min=0).unbind(-1)
            of_patch = view.tokens.view(view.grid)[rows, columns]
            tokens.append(of_patch.where((place >= 0).all(-1), -1))
        return torch.stack(tokens)[..., None]
