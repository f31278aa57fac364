"""One grid per image without M-RoPE, with newlines, or with patches in raster order."""

from functools import partial
from typing import Any

import torch
from tests.families.cases import gemma, patch_grid
from tests.families.cases.patch_grid import (
    FIRST_SPECIAL,
    MERGE,
    PATCH,
    SPECIAL_IDS,
    TEXT,
    WIDE_VISION,
)
from tests.families.cases.rope_grids import SIGLIP_VISION
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen
from torch import nn
from transformers import AutoModelForImageTextToText, CONFIG_MAPPING

PLAIN_TEXT: dict[str, Any] = {**TEXT, "rope_parameters": None}
SLIDING = ["sliding_attention", "full_attention"]
PLAIN_IDS = {"image_token_id": IMAGE_TOKEN, "video_token_id": FIRST_SPECIAL}

CONFIGS: dict[str, dict[str, Any]] = {
    "exaone4_5": {
        "text_config": {
            **PLAIN_TEXT,
            "model_type": "exaone4",
            "sliding_window": 7,
            "layer_types": SLIDING * 2,
        },
        "vision_config": {
            **WIDE_VISION,
            "num_key_value_heads": 1,
            "window_size": 32,
            "fullatt_block_indexes": [2],
        },
        **PLAIN_IDS,
    },
    "lfm3_vl": {
        "text_config": {
            **PLAIN_TEXT,
            "model_type": "lfm3",
            "head_dim": 16,
            "sliding_window": 7,
            "layer_types": ["conv", "conv", *SLIDING],
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "patch_size": PATCH,
            "layer_types": ["conv", "full_attention", "full_attention"],
        },
        "projector_hidden_size": 48,
        **SPECIAL_IDS,
    },
    "kimi_k25": {
        "text_config": {
            **PLAIN_TEXT,
            "model_type": "deepseek_v3",
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 12,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": PATCH,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
        },
        "projection_hidden_size": 32,
        **SPECIAL_IDS,
    },
    "hunyuan_vl": {
        "text_config": {
            **TEXT,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 10000.0,
                "alpha": 1000.0,
                "factor": 1.0,
                "mrope_section": [2, 2, 2, 2],
            },
        },
        "vision_config": {
            **SIGLIP_VISION,
            "text_hidden_size": TEXT["hidden_size"],
            "out_hidden_size": TEXT["hidden_size"],
            "max_image_size": 64,
        },
        "image_token_id": IMAGE_TOKEN,
        "im_start_id": FIRST_SPECIAL + 1,
        "im_end_id": FIRST_SPECIAL + 2,
        "im_newline_id": FIRST_SPECIAL + 3,
    },
    "gemma4_unified": {
        "text_config": {
            **PLAIN_TEXT,
            "head_dim": 16,
            # With as many as by default, scores are so large that attention is nearly
            # a choice of one key.
            "global_head_dim": 32,
            "sliding_window": 8,
            "layer_types": SLIDING * 2,
            "final_logit_softcapping": 4.0,
        },
        "vision_config": {
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "model_patch_size": 8,
            "mm_embed_dim": 32,
            "mm_posemb_size": 64,
            "output_proj_dims": 32,
        },
        "audio_config": None,
        "boi_token_id": gemma.BEGIN_OF_IMAGE,
        "eoi_token_id": gemma.END_OF_IMAGE,
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": 97,
        "audio_token_id": 98,
    },
}
VARIANTS = tuple(name for name in CONFIGS if name in CONFIG_MAPPING)
# With the weights of the first seed, text outweighs the image in every head, in
# transformers 5.20.
FIRST_SEEDS = {"kimi_k25": 2}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed + FIRST_SEEDS.get(variant, 0))
        config = CONFIG_MAPPING[variant](**CONFIGS[variant])
        model: Any = AutoModelForImageTextToText.from_config(config)
        roughen(model)
    model.set_attn_implementation(implementation)
    # Kernels that group the tokens of an expert take no float64, as the reference is.
    model.set_experts_implementation("eager")
    return model.eval()


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    if variant == "gemma4_unified":
        return _unified_inputs(seed, before)
    # With newlines, a tall image makes another number of tokens than a wide one.
    wide = 2 * seed if variant == "hunyuan_vl" else seed
    made = patch_grid.inputs("qwen2_vl", wide, before)
    if variant == "kimi_k25":
        made["pixel_values"] = made["pixel_values"][:, : 3 * PATCH**2].view(
            -1, 3, PATCH, PATCH
        )
    if variant == "hunyuan_vl":
        return _with_newlines(made)
    del made["mm_token_type_ids"]
    return made


def _with_newlines(made: dict[str, Any]) -> dict[str, Any]:
    """The image tokens of HunYuan-VL: one at either end, and one behind each row."""
    rows, columns = (made["image_grid_thw"][0, 1:] // MERGE).tolist()
    ids = made["input_ids"][0]
    first = int((ids == IMAGE_TOKEN).nonzero()[0])
    image = ids.new_full((rows * (columns + 1) + 2,), IMAGE_TOKEN)
    ids = torch.cat([ids[:first], image, ids[first + rows * columns :]])[None]
    return {
        **made,
        "input_ids": ids,
        "pixel_values": made["pixel_values"][:, : 3 * PATCH**2],
        "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
    }


def _unified_inputs(seed: int, before: int) -> dict[str, Any]:
    """A row of pixels and a place for each image token, and for some that pad."""
    made = gemma.gemma4_inputs(seed, before)
    y, x = torch.meshgrid(
        torch.arange(gemma.ROWS), torch.arange(gemma.COLUMNS), indexing="ij"
    )
    places = torch.stack([x, y], dim=-1).view(1, -1, 2)
    generator = torch.Generator().manual_seed(100 + seed)
    patches = torch.rand(1, places.shape[1], 3 * PATCH**2, generator=generator)
    return {
        **made,
        "pixel_values": nn.functional.pad(patches, (0, 0, 0, 3)),
        "image_position_ids": nn.functional.pad(places, (0, 0, 0, 3), value=-1),
    }


CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        partial(inputs, variant),
        # As Gemma 4's.
        tolerance=5e-5 if variant == "gemma4_unified" else 1e-5,
        implementations=("sdpa",),
        can_be_padded=variant != "hunyuan_vl",
    )
    for variant in VARIANTS
)
