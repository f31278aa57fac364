"""Gemma 3 (also with a crop) and Gemma 4 in all its kinds of layers."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.idefics3 import TEXT, tiled_ids, VISION
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4VisionConfig,
    SiglipVisionConfig,
)

SLIDING, FULL = "sliding_attention", "full_attention"
LAYERS: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "sliding_window": 8,
    "head_dim": 16,
}
BEGIN_OF_IMAGE, END_OF_IMAGE = 95, 96
PATCH, POOLED = 4, 2
ROWS, COLUMNS = 3, 4
GEMMA4_TEXT: dict[str, dict[str, Any]] = {
    "gemma4": {},
    "gemma4_shared_kv": {"num_kv_shared_layers": 2},
    "gemma4_k_equals_v": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "gemma4_bidirectional": {"use_bidirectional_attention": "vision"},
}


def gemma3(seed: int, implementation: str, **text: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=Gemma3TextConfig(
                    **{**TEXT, **LAYERS, "query_pre_attn_scalar": 16, **text}
                ),
                vision_config=SiglipVisionConfig(
                    **{**VISION, "patch_size": PATCH, "vision_use_head": False}
                ),
                mm_tokens_per_image=16,
                boi_token_index=BEGIN_OF_IMAGE,
                eoi_token_index=END_OF_IMAGE,
                image_token_index=IMAGE_TOKEN,
            )
        )
        roughen(model)
        # Freshly made, the projection of image features is zero.
        nn.init.normal_(
            model.model.multi_modal_projector.mm_input_projection_weight, std=0.3
        )
    return in_eval_mode(model, implementation)


def gemma4(variant: str, seed: int, implementation: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = Gemma4TextConfig(
            **{
                **TEXT,
                **LAYERS,
                "vocab_size_per_layer_input": TEXT["vocab_size"],
                "hidden_size_per_layer_input": 8,
                "global_head_dim": 32,
                "final_logit_softcapping": 4.0,
                **GEMMA4_TEXT[variant],
            }
        )
        model = Gemma4ForConditionalGeneration(
            Gemma4Config(
                text_config=text,
                vision_config=Gemma4VisionConfig(
                    hidden_size=32,
                    intermediate_size=48,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=2,
                    head_dim=16,
                    patch_size=PATCH,
                    pooling_kernel_size=POOLED,
                    position_embedding_size=256,
                ),
                audio_config=None,
                boi_token_id=BEGIN_OF_IMAGE,
                eoi_token_id=END_OF_IMAGE,
                image_token_id=IMAGE_TOKEN,
                video_token_id=97,
                audio_token_id=98,
            )
        )
        roughen(model)
    return in_eval_mode(model, implementation)


def in_eval_mode(model: Any, implementation: str) -> nn.Module:
    model.set_attn_implementation(implementation)
    built: nn.Module = model.eval()
    return built


def gemma3_inputs(seed: int, before: int, num_pictures: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(100 + seed)
    ids = tiled_ids(seed, before, num_pictures, 16)
    return {
        "input_ids": ids,
        "pixel_values": torch.randn(num_pictures, 3, 32, 32, generator=generator),
        "token_type_ids": (ids == IMAGE_TOKEN).long(),
    }


def gemma4_inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(100 + seed)
    ids = tiled_ids(seed, before, 1, ROWS * COLUMNS)
    y, x = torch.meshgrid(
        torch.arange(ROWS * POOLED), torch.arange(COLUMNS * POOLED), indexing="ij"
    )
    places = torch.stack([x, y], dim=-1).flatten(0, 1)
    num_fillers = 2 * POOLED**2
    fillers = torch.full((num_fillers, 2), -1)
    patches = torch.rand(len(places), 3 * PATCH**2, generator=generator)
    return {
        "input_ids": ids,
        "pixel_values": nn.functional.pad(patches, (0, 0, 0, num_fillers))[None],
        "image_position_ids": torch.cat([places, fillers])[None],
        "mm_token_type_ids": (ids == IMAGE_TOKEN).long(),
    }


CASES = (
    FamilyCase("gemma3", gemma3, gemma3_inputs),
    FamilyCase("gemma3_crops", gemma3, partial(gemma3_inputs, num_pictures=3)),
    *(
        FamilyCase(name, partial(gemma4, name), gemma4_inputs, tolerance=5e-5)
        for name in GEMMA4_TEXT
    ),
)
