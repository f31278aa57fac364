"""Other families of the kind of Qwen-VL and GLM-4V: M-RoPE and a grid of patches."""

from functools import partial
from typing import Any

import torch
from tests.families.cases import patch_grid
from tests.families.cases.patch_grid import (
    FIRST_SPECIAL,
    GLM_IDS,
    HIDDEN,
    PATCH,
    SPECIAL_IDS,
    TEXT,
    WIDE_VISION,
    with_rope,
)
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen
from transformers import AutoModelForImageTextToText, CONFIG_MAPPING

EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
GLM_TEXT = with_rope(mrope_section=[2, 1, 1], partial_rotary_factor=0.5)
GLM_VISION = {**WIDE_VISION, "image_size": 64}
INTERLEAVED = {**with_rope(mrope_interleaved=True), "head_dim": 16}
DEEPSTACK = {
    **WIDE_VISION,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}
HYBRID_TEXT: dict[str, Any] = {
    **with_rope(
        mrope_interleaved=True, mrope_section=[2, 1, 1], partial_rotary_factor=0.25
    ),
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
SIGLIP_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
}
AUDIO: dict[str, Any] = {
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 16,
    "output_dim": HIDDEN,
    "num_mel_bins": 16,
}
COMPASS_TEXT: dict[str, Any] = {
    **TEXT,
    "logit_scale": 0.25,
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "rope_parameters": {
        kind: TEXT["rope_parameters"]
        for kind in ("sliding_attention", "full_attention")
    },
}


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_vl_moe": {
        "text_config": {**INTERLEAVED, **EXPERTS},
        "vision_config": DEEPSTACK,
        **SPECIAL_IDS,
    },
    "qwen3_5_moe": {
        "text_config": {
            **HYBRID_TEXT,
            **EXPERTS,
            "shared_expert_intermediate_size": 32,
        },
        "vision_config": {**WIDE_VISION, "num_position_embeddings": 64},
        **SPECIAL_IDS,
    },
    "cosmos3_omni": {
        "text_config": INTERLEAVED,
        "vision_config": DEEPSTACK,
        **SPECIAL_IDS,
    },
    "cosmos3_edge": {
        "text_config": {**TEXT, "head_dim": 16},
        "vision_config": {**SIGLIP_VISION, "num_patches": 64},
        "projector_hidden_size": 48,
        **SPECIAL_IDS,
    },
    "cohere_compass": {
        "text_config": COMPASS_TEXT,
        "vision_config": DEEPSTACK,
        **SPECIAL_IDS,
    },
    "glm4v_moe": {
        "text_config": {
            **GLM_TEXT,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        },
        "vision_config": GLM_VISION,
        **GLM_IDS,
    },
    "glm_ocr": {
        "text_config": {**GLM_TEXT, "head_dim": 16},
        "vision_config": GLM_VISION,
        **GLM_IDS,
    },
    "glmga": {"text_config": GLM_TEXT, "vision_config": GLM_VISION, **GLM_IDS},
    "ernie4_5_vl_moe": {
        "text_config": {
            **with_rope(mrope_section=[3, 3, 2]),
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_intermediate_size": [80, 64],
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": PATCH,
        },
        **GLM_IDS,
    },
    "paddleocr_vl": {
        "text_config": {**TEXT, "head_dim": 16},
        "vision_config": {**SIGLIP_VISION, "image_size": 64},
        **SPECIAL_IDS,
    },
    "qwen2_5_omni_thinker": {
        "text_config": TEXT,
        "vision_config": {
            **WIDE_VISION,
            "window_size": 32,
            "fullatt_block_indexes": [2],
        },
        "audio_config": AUDIO,
        "image_token_index": IMAGE_TOKEN,
        "video_token_index": FIRST_SPECIAL,
        "audio_token_index": FIRST_SPECIAL + 3,
        "vision_start_token_id": FIRST_SPECIAL + 1,
        "vision_end_token_id": FIRST_SPECIAL + 2,
        "audio_start_token_id": FIRST_SPECIAL + 4,
        "audio_end_token_id": FIRST_SPECIAL + 5,
    },
    "qwen3_omni_moe_thinker": {
        "text_config": {**INTERLEAVED, **EXPERTS},
        "vision_config": DEEPSTACK,
        "audio_config": {**AUDIO, "downsample_hidden_size": 8},
        **SPECIAL_IDS,
        "audio_token_id": FIRST_SPECIAL + 3,
        "audio_start_token_id": FIRST_SPECIAL + 4,
    },
}
VARIANTS = tuple(name for name in CONFIGS if name in CONFIG_MAPPING)
# One frame a patch.
ONE_FRAME = ("cosmos3_edge", "ernie4_5_vl_moe", "paddleocr_vl")
# Positions follow from the ids.
WITHOUT_TYPES = ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CONFIG_MAPPING[variant](**CONFIGS[variant])
        model: Any = AutoModelForImageTextToText.from_config(config)
        roughen(model)
    model.set_attn_implementation(implementation)
    # Kernels that group the tokens of an expert take no float64, as the reference is.
    model.set_experts_implementation("eager")
    return model.eval()


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    made = patch_grid.inputs("qwen2_vl", seed, before)
    if variant in ONE_FRAME:
        made["pixel_values"] = made["pixel_values"][:, : 3 * PATCH**2]
    if variant == "paddleocr_vl":
        made["pixel_values"] = made["pixel_values"].view(-1, 3, PATCH, PATCH)
    if variant == "ernie4_5_vl_moe":
        made["moe_mm_token_type_ids"] = made["mm_token_type_ids"].clone()
    if variant in WITHOUT_TYPES:
        del made["mm_token_type_ids"]
    return made


CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        partial(inputs, variant),
        implementations=("sdpa",),
    )
    for variant in VARIANTS
)
