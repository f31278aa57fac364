"""IDEFICS, with gated cross-attention between its layers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.shared.class_token_square import (
    class_token_square,
    patches_of,
)
from captum_dexar.families.shared.queries import (
    found_places,
    QueryAdapter,
    QueryAttention,
)
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


class IdeficsAdapter(FamilyAdapter):
    """Each image, stretched to a square, is a class token and a grid of patches.

    A gated block of cross-attention counts as a layer before the one that it precedes.
    A token reads the image that comes last before it.
    """

    name: ClassVar[str] = "IDEFICS without a resampler"
    model_types: ClassVar[tuple[str, ...]] = ("idefics",)
    processor_types: ClassVar[tuple[str, ...]] = ("IdeficsProcessor",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "image_attention_mask": None,
    }
    required_inputs: ClassVar[tuple[str, ...]] = ("image_attention_mask",)
    # A pass on a cache would need the image again.
    replayable: ClassVar[bool] = False
    steps_run_on: ClassVar[str] = "one full pass"
    only_model_counts_tokens: ClassVar[bool] = True
    cross_attention: ClassVar[str | None] = "cross_attn"
    has_resampler: ClassVar[bool] = False

    def matches(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.matches`."""
        return super().matches(config) and config.use_resampler == self.has_resampler

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """See :meth:`FamilyAdapter.image_keys`."""
        pixels: Tensor = inputs["pixel_values"]
        count = pixels.shape[1] * self.keys_per_image(inputs, config)
        return torch.arange(count, device=pixels.device).expand(pixels.shape[0], -1)

    def keys_per_image(self, inputs: Mapping[str, Any], config: Any) -> int:
        """Number of keys of one image."""
        rows, columns = patches_of(inputs["pixel_values"], config)
        return 1 + rows * columns

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        return class_token_square(image)

    def placeholder(self, processor: Any) -> str:
        """See :meth:`FamilyAdapter.placeholder`; the processor puts them in."""
        return ""

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """See :meth:`FamilyAdapter.prompt`; the question, behind all images."""
        return question

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`."""
        listed = list(images) if isinstance(images, (list, tuple)) else [images]
        return processor(text=[[*listed, text]], return_tensors="pt")


class IdeficsResamplerAdapter(QueryAdapter, IdeficsAdapter):
    """The keys are queries of a perceiver resampler."""

    name: ClassVar[str] = "IDEFICS with a resampler"
    processor_types: ClassVar[tuple[str, ...]] = ()
    shared_processors: ClassVar[tuple[str, ...]] = ("IdeficsProcessor",)
    boxes_checked: ClassVar[str] = found_places("13 of 24 queries (16 cells)")
    has_resampler: ClassVar[bool] = True

    def keys_per_image(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`IdeficsAdapter.keys_per_image`."""
        return int(config.perceiver_config.resampler_n_latents)

    def num_pictures(self, inputs: Mapping[str, Any]) -> int:
        """See :meth:`QueryAdapter.num_pictures`."""
        return int(inputs["pixel_values"].shape[1])

    def num_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`QueryAdapter.num_vision_tokens`."""
        rows, columns = patches_of(inputs["pixel_values"], config)
        return 1 + rows * columns

    def attentions(self, model: Any) -> list[QueryAttention]:
        """See :meth:`QueryAdapter.attentions`."""
        blocks = model.model.perceiver_resampler.blocks
        return [QueryAttention(block[0], "both", at_softmax=True) for block in blocks]

    def encode(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """See :meth:`QueryAdapter.encode`; this model has no method for it."""
        pictures = inputs["pixel_values"].flatten(0, 1)
        states = model.model.vision_model(pixel_values=pictures).last_hidden_state
        made = model.model.perceiver_resampler(states)
        return BaseModelOutputWithPooling(pooler_output=made)
