"""Qwen2-VL to Qwen3.5, GLM-4V, GLM-4.6V, VideoLLaMA 3."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn, Tensor
from transformers import (
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)

PATCH = 8
MERGE = 2
HIDDEN = 64
# Ids of the other special tokens are the last of the vocabulary.
FIRST_SPECIAL = VOCABULARY - 6
SPECIAL_IDS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": FIRST_SPECIAL,
    "vision_start_token_id": FIRST_SPECIAL + 1,
    "vision_end_token_id": FIRST_SPECIAL + 2,
}
GLM_IDS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": FIRST_SPECIAL,
    "image_start_token_id": FIRST_SPECIAL + 1,
    "image_end_token_id": FIRST_SPECIAL + 2,
    "video_start_token_id": FIRST_SPECIAL + 3,
    "video_end_token_id": FIRST_SPECIAL + 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 3, 3],
    },
}
VISION: dict[str, Any] = {
    "depth": 3,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
}
WIDE_VISION: dict[str, Any] = {
    **VISION,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": HIDDEN,
}


def with_rope(**rope: Any) -> dict[str, Any]:
    return {**TEXT, "rope_parameters": {**TEXT["rope_parameters"], **rope}}


def qwen2_vl() -> nn.Module:
    vision = {**VISION, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=TEXT, vision_config=vision, **SPECIAL_IDS)
    )


def qwen2_5_vl(**text: Any) -> nn.Module:
    # Windows of 2 x 2 tokens in all layers of the vision tower but the last.
    vision = {**WIDE_VISION, "window_size": 32, "fullatt_block_indexes": [2]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**TEXT, **text}, vision_config=vision, **SPECIAL_IDS
        )
    )


def qwen2_5_vl_sliding() -> nn.Module:
    return qwen2_5_vl(use_sliding_window=True, sliding_window=7, max_window_layers=2)


def qwen3_vl() -> nn.Module:
    vision = {
        **WIDE_VISION,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {**with_rope(mrope_interleaved=True), "head_dim": 16}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL_IDS)
    )


def qwen3_5() -> nn.Module:
    text = {
        **with_rope(
            mrope_interleaved=True,
            mrope_section=[2, 1, 1],
            partial_rotary_factor=0.25,
        ),
        "head_dim": 32,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    }
    vision = {**WIDE_VISION, "num_position_embeddings": 64}
    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(text_config=text, vision_config=vision, **SPECIAL_IDS)
    )


def glm4v(
    model: Any = Glm4vForConditionalGeneration, config: Any = Glm4vConfig
) -> nn.Module:
    text = with_rope(mrope_section=[2, 1, 1], partial_rotary_factor=0.5)
    vision = {**WIDE_VISION, "image_size": 64}
    made: nn.Module = model(config(text_config=text, vision_config=vision, **GLM_IDS))
    return made


def glm46v() -> nn.Module:
    return glm4v(Glm46VForConditionalGeneration, Glm46VConfig)


def video_llama_3() -> nn.Module:
    text = {**TEXT, "model_type": "qwen2", "rope_parameters": None}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": PATCH,
    }
    ids = {name: SPECIAL_IDS[name] for name in ("image_token_id", "video_token_id")}
    return VideoLlama3ForConditionalGeneration(
        VideoLlama3Config(text_config=text, vision_config=vision, **ids)
    )


BUILDERS = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_5_vl_sliding": qwen2_5_vl_sliding,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "glm4v": glm4v,
    "glm46v": glm46v,
    "video_llama_3": video_llama_3,
}
VARIANTS = tuple(BUILDERS)


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = BUILDERS[variant]()
        roughen(model)
    model.set_attn_implementation(implementation)
    return model.eval()


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    """Random patches of one image, wide or tall, depending on the seed."""
    generator = torch.Generator().manual_seed(seed)
    grid = [1, 4, 6] if seed % 2 == 0 else [1, 6, 4]
    is_video_llama = variant == "video_llama_3"
    frames = 1 if is_video_llama else 2
    num_patches = grid[1] * grid[2]
    text = torch.randint(4, FIRST_SPECIAL, (1, before + 6), generator=generator)
    image = torch.full((1, num_patches // MERGE**2), IMAGE_TOKEN)
    input_ids = torch.cat([text[:, :before], image, text[:, before:]], dim=1)
    made: dict[str, Tensor] = {
        "input_ids": input_ids,
        "pixel_values": torch.randn(
            num_patches, 3 * frames * PATCH**2, generator=generator
        ),
        "image_grid_thw": torch.tensor([grid]),
    }
    if is_video_llama:
        made["image_merge_sizes"] = torch.tensor([MERGE])
    else:
        made["mm_token_type_ids"] = (input_ids == IMAGE_TOKEN).int()
    return made


CASES = tuple(
    FamilyCase(variant, partial(build, variant), partial(inputs, variant))
    for variant in VARIANTS
)
