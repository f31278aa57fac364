"""BLIP, which captions an image, or goes on with the beginning of a caption."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.shared.class_token_square import ClassTokenSquareAdapter


class BlipAdapter(ClassTokenSquareAdapter):
    """The image is read by cross-attention in every layer.

    ``generate`` drops the last token of a prompt, the end that a tokenizer adds, and
    puts the first token of the decoder in the place of the first.
    """

    name: ClassVar[str] = "BLIP (captions)"
    model_types: ClassVar[tuple[str, ...]] = ("blip",)
    processor_types: ClassVar[tuple[str, ...]] = ("BlipProcessor",)
    cross_attention: ClassVar[str | None] = "crossattention"

    def named(self, inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.named`; a prompt may be left out."""
        named, text, pixels = dict(inputs), config.text_config, inputs["pixel_values"]
        ids = named.get("input_ids")
        if ids is None:
            both_ends = torch.tensor([[text.bos_token_id, text.eos_token_id]])
            ids = both_ends.expand(len(pixels), -1)
        # The model writes into it.
        named["input_ids"] = ids.clone()
        return named

    def as_generated(self, inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.as_generated`."""
        changed = dict(inputs)
        ids = inputs["input_ids"][:, :-1].clone()
        ids[:, 0] = config.text_config.bos_token_id
        changed["input_ids"] = ids
        if "attention_mask" in changed:
            changed["attention_mask"] = changed["attention_mask"][:, :-1]
        return changed

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`; without a text the model begins itself."""
        if not text:
            return processor(images=images, return_tensors="pt")
        return super().process(images, text, processor)
