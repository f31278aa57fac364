"""DeepSeek-OCR 2: a tile and a copy, each of 4 x 4 patches for 16 queries."""

from typing import Any

import torch
from tests.families.cases.queries import built
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from torch import nn
from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration

SIDE, PATCH, NUM_QUERIES = 64, 4, 16


def build(seed: int, implementation: str) -> nn.Module:
    vision: dict[str, Any] = {
        "sam_config": {
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 48,
            "downsample_channels": [24, 32],
            "initializer_range": 0.02,
        },
        "encoder_config": {
            "vocab_size": 8,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    }
    text: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = DeepseekOcr2Config(
        vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN
    )

    def make() -> nn.Module:
        model: Any = DeepseekOcr2ForConditionalGeneration(config)
        # As many queries as patches, as in trained models; the class has 144 or 256.
        model.model.vision_tower.query_768_resolution = nn.Embedding(NUM_QUERIES, 32)
        small: nn.Module = model
        return small

    model: Any = built(make, seed, implementation)
    # Those of the other implementation have no float64, in which the reference runs.
    model.set_experts_implementation("eager")
    return model


def inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, VOCABULARY, (before + 6,), generator=generator).tolist()
    image = [IMAGE_TOKEN] * (2 * NUM_QUERIES + 1)
    return {
        "input_ids": torch.tensor([words[:before] + image + words[before:]]),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=generator),
        "pixel_values_local": torch.randn(1, 3, SIDE, SIDE, generator=generator),
        "num_local_patches": torch.tensor([1]),
    }


CASES = (
    FamilyCase(
        "deepseek_ocr2",
        build,
        inputs,
        implementations=("sdpa",),
        places="resampler",
    ),
)
