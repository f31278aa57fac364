"""Unlimited-OCR: tiles of 2 x 2 tokens as one canvas, and a copy of 4 x 4."""

from typing import Any

import torch
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

PATCH = 4
# Patches along the side of a token.
MERGE = 4
TILE, COPY = 32, 64


def build(
    seed: int = 0, implementation: str = "sdpa", sliding_window: int = 6
) -> nn.Module:
    vision: dict[str, Any] = {
        "sam_config": {
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": COPY,
            "patch_size": PATCH,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 48,
            "downsample_channels": [24, 32],
            "initializer_range": 0.02,
        },
        "encoder_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": COPY,
            "patch_size": PATCH * MERGE,
        },
    }
    text: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "sliding_window": sliding_window,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = UnlimitedOcrConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = UnlimitedOcrForConditionalGeneration(config)
        roughen(model)
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        # The placeholder is no answer.
        model.lm_head.weight[IMAGE_TOKEN] = 0.0
    built: nn.Module = model.eval()
    return built


def inputs(seed: int, before: int) -> dict[str, Any]:
    """A prompt with one image of 1 x 2 tiles."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, VOCABULARY, (before + 6,), generator=generator).tolist()
    image = [IMAGE_TOKEN] * (2 * 5 + 4 * 5 + 1)
    return {
        "input_ids": torch.tensor([words[:before] + image + words[before:]]),
        "pixel_values": torch.randn(1, 3, COPY, COPY, generator=generator),
        "pixel_values_local": torch.randn(2, 3, TILE, TILE, generator=generator),
        "num_local_patches": [2],
        "patches_grid": [[2, 1]],
    }
