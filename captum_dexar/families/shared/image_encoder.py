"""Families whose encoder reads the image alone, and whose decoder writes the answer."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.shared.plain_prompt import SingleImageAdapter
from torch import Tensor


class ImageEncoderAdapter(SingleImageAdapter):
    """The keys of the cross-attention are the states of an encoder of the image.

    There is no prompt beside the tokens with which the decoder starts: a start token,
    and in some models a task, or the beginning of the answer.
    """

    prompt_input: ClassVar[str] = "decoder_input_ids"
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {}
    steps_run_on: ClassVar[str] = "the encoder's output"
    cross_attention: ClassVar[str | None] = "encoder_attn"
    only_model_counts_tokens: ClassVar[bool] = True

    @abstractmethod
    def num_states(self, inputs: Mapping[str, Any], config: Any) -> int:
        """Number of the encoder's states for one image."""

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """See :meth:`FamilyAdapter.image_keys`."""
        pixels: Tensor = inputs[self.pixel_input]
        states = torch.arange(self.num_states(inputs, config), device=pixels.device)
        return states.expand(pixels.shape[0], -1)

    def needs_start(self, config: Any) -> bool:
        """Whether the start token comes before given ids, too."""
        return True

    def named(self, inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.named`; Donut's processor calls the decoder's ids
        by the names of a prompt's."""
        renamed = dict(inputs)
        if "input_ids" in renamed:
            renamed["decoder_input_ids"] = renamed.pop("input_ids")
            renamed.pop("attention_mask", None)
        return renamed

    def with_decoder_start(
        self, inputs: Mapping[str, Any], config: Any
    ) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.with_decoder_start`; as ``generate`` does it."""
        started = dict(inputs)
        first = getattr(config, "decoder_start_token_id", None)
        if first is None:
            first = config.get_text_config(decoder=True).decoder_start_token_id
        pixels: Tensor = inputs[self.pixel_input]
        start = pixels.new_full((pixels.shape[0], 1), first, dtype=torch.long)
        ids = started.get("decoder_input_ids")
        if ids is None:
            ids = start
        elif self.needs_start(config) and bool((ids[:, 0] != first).all()):
            ids = torch.cat([start, ids], dim=1)
        started["decoder_input_ids"] = ids
        mask = started.pop("decoder_attention_mask", None)
        if mask is not None and not bool(mask.all()):
            raise ValueError(
                "decoder_attention_mask hides some of decoder_input_ids, but a "
                "decoder's start is not padded. Explain inputs of different lengths "
                "one by one."
            )
        return started

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`; the text is the decoder's."""
        made = processor(images=images, return_tensors="pt")
        if text:
            ids = processor.tokenizer(
                text, add_special_tokens=False, return_tensors="pt"
            )
            made["decoder_input_ids"] = ids["input_ids"]
        return made
