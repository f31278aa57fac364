"""Gemma 3 and Gemma 4."""

from collections.abc import Mapping
from math import ceil
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import (
    FamilyAdapter,
    ImageTokens,
    PreparedImage,
    side_of,
)
from captum_dexar.families.geometry.image_blocks import in_sequence, prepared_again
from captum_dexar.maps.layout import ImageLayout, Rectangle, View
from torch import Tensor


class Gemma3Adapter(FamilyAdapter):
    """The stretched image; with pan and scan, then crops along its longer side."""

    name: ClassVar[str] = "Gemma 3"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    processor_types: ClassVar[tuple[str, ...]] = ("Gemma3Processor",)
    flat_pixels: ClassVar[bool] = True
    required_inputs: ClassVar[tuple[str, ...]] = ("token_type_ids",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "token_type_ids": 0,
    }

    def image_token_id(self, processor: Any) -> int:
        """The processor's own ``image_token_id`` is that of the image's beginning."""
        return int(processor.tokenizer.image_token_id)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        facts = image.config
        side = side_of(
            image.processor.image_seq_length
            if facts is None
            else facts.mm_tokens_per_image
        )
        views = [View("full", (side, side), image.whole())]
        for rectangle in _crops(image):
            views.append(View("crop", (side, side), rectangle))
        return in_sequence(views)


def _crops(image: PreparedImage) -> list[Rectangle]:
    """What pan and scan has cut out of the image, if it was switched on."""
    inputs = image.inputs
    num_pictures = inputs["pixel_values"].shape[0] // inputs["input_ids"].shape[0]
    if image.size is None or num_pictures == image.num_images:
        # Where the images are not known, each picture passes for one of them.
        return []
    if image.num_images == 1:
        count = num_pictures - 1
    elif image.image_processor is None:
        return []
    else:
        # A processor's settings go before its image processor's.
        settings = dict(getattr(image.processor, "images_kwargs", {}))
        made = prepared_again(image, **{**settings, "do_pan_and_scan": True})
        count = int(made["num_crops"][0])
    height, width = image.size
    longer = max(height, width)
    step = ceil(longer / max(count, 1))
    crops: list[Rectangle] = []
    for start in range(0, step * count, step):
        stop = min(start + step, longer)
        if width >= height:
            crops.append((0.0, float(start), float(height), float(stop)))
        else:
            crops.append((float(start), 0.0, float(stop), float(width)))
    return crops


class Gemma4Adapter(FamilyAdapter):
    """One grid an image of nearly its aspect ratio, several patches a token."""

    name: ClassVar[str] = "Gemma 4"
    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    processor_types: ClassVar[tuple[str, ...]] = ("Gemma4Processor",)
    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 3
    required_inputs: ClassVar[tuple[str, ...]] = ("mm_token_type_ids",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
    }

    def inputs_required_by(self, config: Any) -> tuple[str, ...]:
        """Kinds of tokens matter where image tokens attend to each other both ways."""
        text = config.get_text_config()
        both_ways = getattr(text, "use_bidirectional_attention", None) == "vision"
        return self.required_inputs if both_ways else ()

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        pooled = (
            image.image_processor.pooling_kernel_size
            if image.config is None
            else image.config.vision_config.pooling_kernel_size
        )
        # Columns come first; patches that only fill up the tensor are at -1.
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
