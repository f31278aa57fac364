"""Idefics3 and SmolVLM: four tiles and the whole image, of 2 x 2 tokens each."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3VisionConfig,
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMVisionConfig,
)

NUM_TILES = 5
TILE_TOKENS = 4
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def build(variant: str, seed: int, implementation: str, tile: int = 32) -> nn.Module:
    settings: dict[str, Any] = {"image_token_id": IMAGE_TOKEN, "scale_factor": 2}
    sizes = {**VISION, "image_size": tile}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = LlamaConfig(**TEXT)
        if variant == "smolvlm":
            vision: Any = SmolVLMVisionConfig(**sizes)
            model: Any = SmolVLMForConditionalGeneration(
                SmolVLMConfig(text_config=text, vision_config=vision, **settings)
            )
        else:
            vision = Idefics3VisionConfig(**sizes)
            model = Idefics3ForConditionalGeneration(
                Idefics3Config(text_config=text, vision_config=vision, **settings)
            )
        roughen(model)
    model.set_attn_implementation(implementation)
    built: nn.Module = model.eval()
    return built


def tiled_ids(seed: int, before: int, num_tiles: int, tile_tokens: int) -> torch.Tensor:
    """A prompt with a text token before each tile's image tokens."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(4, VOCABULARY, (before + num_tiles + 6,), generator=generator)
    image = torch.full((tile_tokens,), IMAGE_TOKEN)
    parts = [text[:before]]
    for mark in text[before : before + num_tiles]:
        parts += [mark[None], image]
    return torch.cat([*parts, text[-6:]])[None]


def inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(100 + seed)
    return {
        "input_ids": tiled_ids(seed, before, NUM_TILES, TILE_TOKENS),
        "pixel_values": torch.randn(1, NUM_TILES, 3, 32, 32, generator=generator),
        "pixel_attention_mask": torch.ones(1, NUM_TILES, 32, 32, dtype=torch.long),
    }


CASES = tuple(
    FamilyCase(variant, partial(build, variant), inputs)
    for variant in ("idefics3", "smolvlm")
)
