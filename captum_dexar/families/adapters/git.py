"""GIT, whose image tokens come before the prompt, without placeholders."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.shared.class_token_square import ClassTokenSquareAdapter


class GitAdapter(ClassTokenSquareAdapter):
    """Image tokens attend to one another in both directions, text to what is before."""

    name: ClassVar[str] = "GIT"
    model_types: ClassVar[tuple[str, ...]] = ("git",)
    processor_types: ClassVar[tuple[str, ...]] = ("GitProcessor",)
    prompt_is_bidirectional: ClassVar[bool] = True

    def named(self, inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.named`; a prompt may be left out."""
        named = dict(inputs)
        if named.get("input_ids") is None:
            start = torch.tensor([[config.bos_token_id]])
            named["input_ids"] = start.expand(len(inputs["pixel_values"]), -1)
        return named

    def num_keys_ahead(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`FamilyAdapter.num_keys_ahead`."""
        return int(self.image_keys(inputs, config).shape[1])

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`; the answer follows the question's words,
        without the end that the tokenizer adds."""
        made = processor(images=images, return_tensors="pt")
        tokenizer = processor.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        made["input_ids"] = torch.tensor([[tokenizer.cls_token_id, *ids]])
        return made
