"""A model of a user's own type, which no adapter knows, and its processor.

They are DeepSeek-VL's under other names.
"""

from typing import Any

import torch
from tests.helpers.processors import word_tokenizer
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    LlamaConfig,
    ProcessorMixin,
    SiglipVisionConfig,
)
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
    DeepseekVLImageProcessorPil,
)


class OwnConfig(DeepseekVLConfig):
    model_type = "own_vl"


class OwnModel(DeepseekVLForConditionalGeneration):
    config_class = OwnConfig


class OwnProcessor(ProcessorMixin):
    """It has no chat template."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any
    ) -> None:
        self.image_token = tokenizer.image_token
        self.image_token_id = tokenizer.image_token_id
        super().__init__(image_processor, tokenizer, **kwargs)

    def replace_image_token(self, *args: Any, **kwargs: Any) -> str:
        return self.image_token * 16


def unknown_model() -> Any:
    """4 x 4 image tokens; the family pads its images to squares."""
    config = OwnConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ).to_dict(),
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ).to_dict(),
        image_token_id=IMAGE_TOKEN,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = OwnModel(config)
        roughen(tiny)
    return tiny.eval()


def unknown_processor() -> Any:
    return OwnProcessor(
        DeepseekVLImageProcessorPil(size={"height": 32, "width": 32}, min_size=8),
        word_tokenizer(),
    )
