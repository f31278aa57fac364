"""The random LLaVA that is measured, its prompts, and the cache of a prompt."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

IMAGE_TOKEN = 3
PATCH = 14
VOCABULARY = 49152
HEADS = 9
TEXT_BEFORE_IMAGE = 4


@lru_cache(maxsize=1)
def llava(grid: int, layers: int) -> LlavaForConditionalGeneration:
    """A language model of the shape of SmolLM-135M behind a small vision tower.

    Args:
        grid (int): image tokens a side
        layers (int): decoder layers; 30 are about 135 M parameters
    """
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=PATCH * grid,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=3,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(config).eval()


def prompt(
    grid: int, num_text: int = 24, batch: int = 1, seed: int = 0
) -> dict[str, Tensor]:
    """Random pixels, and the image's tokens between random words."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(4, VOCABULARY, (batch, num_text), generator=generator)
    image = torch.full((batch, grid * grid), IMAGE_TOKEN)
    before, after = text[:, :TEXT_BEFORE_IMAGE], text[:, TEXT_BEFORE_IMAGE:]
    side = PATCH * grid
    return {
        "input_ids": torch.cat([before, image, after], dim=1),
        "pixel_values": torch.randn(batch, 3, side, side, generator=generator),
    }


def answer(num_tokens: int, batch: int = 1) -> Tensor:
    """An answer to force upon the model, ``(batch, num_tokens)``."""
    return torch.arange(100, 100 + num_tokens).expand(batch, -1)


def generating(num_tokens: int) -> dict[str, Any]:
    """Arguments of ``model.generate`` for exactly so many tokens, greedily."""
    return {
        "max_new_tokens": num_tokens,
        "min_new_tokens": num_tokens,
        "do_sample": False,
    }


def prefilled(model: Any, inputs: dict[str, Tensor]) -> DynamicCache:
    """Keys and values of the prompt but its last token."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    with torch.no_grad():
        model(
            **{**inputs, "input_ids": inputs["input_ids"][:, :-1]},
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return cache


def predicting(inputs: dict[str, Tensor], ids: Tensor) -> Tensor:
    """The tokens at the positions that predict ``ids``, ``(batch, num_tokens)``."""
    return torch.cat([inputs["input_ids"][:, -1:], ids[:, :-1]], dim=1)
