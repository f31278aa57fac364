"""Kosmos-2: queries that read the image and each other once."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.shared.queries import found_places, QueryAttention
from captum_dexar.families.shared.query_square import QuerySquareAdapter
from torch import nn, Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


class Kosmos2Adapter(QuerySquareAdapter):
    """A mask among the inputs, and no id, tells image tokens from text."""

    name: ClassVar[str] = "Kosmos-2"
    model_types: ClassVar[tuple[str, ...]] = ("kosmos-2",)
    processor_types: ClassVar[tuple[str, ...]] = ("Kosmos2Processor",)
    boxes_checked: ClassVar[str] = found_places("34 of 256 queries (16 cells)")
    required_inputs: ClassVar[tuple[str, ...]] = ("image_embeds_position_mask",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "image_embeds_position_mask": 0,
    }
    # Positions follow from the ids, among which padding is left out.
    position_offset: ClassVar[int | None] = None
    can_be_batched: ClassVar[bool] = False

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """See :meth:`FamilyAdapter.image_keys`."""
        is_image = torch.as_tensor(inputs["image_embeds_position_mask"]) > 0
        counts = is_image.sum(1)
        if not bool(counts.all()) or bool((counts != counts[0]).any()):
            raise ValueError(
                "image_embeds_position_mask must mark the same number of image tokens "
                f"in all examples, got {counts.tolist()}."
            )
        return is_image.nonzero()[:, 1].view(len(is_image), -1)

    def num_image_tokens(
        self, inputs: Mapping[str, Any], processor: Any, config: Any
    ) -> int:
        """See :meth:`FamilyAdapter.num_image_tokens`."""
        return self.image_keys(inputs, config).shape[1]

    def attentions(self, model: Any) -> list[QueryAttention]:
        """See :meth:`QueryAdapter.attentions`."""
        return [QueryAttention(model.image_to_text_projection.x_attn, "both")]

    def encode(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """See :meth:`QueryAdapter.encode`; this model has no method for it."""
        states = model.vision_model(inputs["pixel_values"])[0]
        normed = model.vision_model.model.post_layernorm(states)
        made = model.image_to_text_projection(nn.functional.normalize(normed, dim=-1))
        return BaseModelOutputWithPooling(pooler_output=made[0])
