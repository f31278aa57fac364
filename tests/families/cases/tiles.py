"""InternVL, Aya Vision, Cohere2 Vision, Ovis2."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2VisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

TILE, PATCH, MERGE = 32, 4, 2
SIDE = TILE // PATCH // MERGE
TOKENS_OF_TILE = SIDE * SIDE
TOKEN_PIXELS = PATCH * MERGE
# Ids of Ovis2's indicator tokens: the last of the vocabulary.
INDICATORS = list(range(VOCABULARY - 5, VOCABULARY))
WINDOW = 8
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
COHERE: dict[str, Any] = {
    **TEXT,
    "num_hidden_layers": 4,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "logit_scale": 0.25,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": PATCH,
}


def internvl() -> nn.Module:
    return InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=InternVLVisionConfig(**VISION),
            text_config=Qwen2Config(**TEXT),
            image_token_id=IMAGE_TOKEN,
            image_seq_length=TOKENS_OF_TILE,
            downsample_ratio=1 / MERGE,
        )
    )


def aya_vision() -> nn.Module:
    return AyaVisionForConditionalGeneration(
        AyaVisionConfig(
            vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
            text_config=Cohere2Config(**COHERE),
            image_token_index=IMAGE_TOKEN,
            downsample_factor=MERGE,
        )
    )


def cohere2_vision() -> nn.Module:
    return Cohere2VisionForConditionalGeneration(
        Cohere2VisionConfig(
            vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
            text_config=Cohere2Config(**COHERE),
            image_token_id=IMAGE_TOKEN,
            downsample_factor=MERGE,
            alignment_intermediate_size=64,
        )
    )


def ovis2() -> nn.Module:
    return Ovis2ForConditionalGeneration(
        Ovis2Config(
            vision_config=Ovis2VisionConfig(
                **VISION, vocab_size=40, hidden_stride=MERGE
            ),
            text_config=Qwen2Config(**TEXT),
            image_token_id=IMAGE_TOKEN,
            visual_indicator_token_ids=INDICATORS,
            vocab_size=VOCABULARY,
            hidden_size=TEXT["hidden_size"],
        )
    )


MAKERS: dict[str, Any] = {
    "internvl": internvl,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "ovis2": ovis2,
}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MAKERS[variant]()
        roughen(model)
    model.set_attn_implementation(implementation)
    return model.eval()


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    """A row of two tiles and a copy of the whole, text between them."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, VOCABULARY - 5, (before + 6,), generator=generator)
    text: list[int] = words.tolist()
    between = INDICATORS[1] if variant == "ovis2" else 50
    grid = [IMAGE_TOKEN] * TOKENS_OF_TILE
    image = [*grid, between, *grid, between, *grid]
    return {
        "input_ids": torch.tensor([text[:before] + image + text[before:]]),
        "pixel_values": torch.randn(3, 3, TILE, TILE, generator=generator),
    }


CASES = tuple(
    FamilyCase(variant, partial(build, variant), partial(inputs, variant))
    for variant in MAKERS
)
