"""Decoders whose attention modules choose the keys that a query reads.

Qwen4-Exp, MiniMax-M3-VL, Mistral Large 4, dots3-note. An indexer inside the module
scores all keys, and the mask that the module is given is not the one of its attention.
"""

from functools import partial
from typing import Any

import torch
from tests.families.cases import patch_grid
from tests.families.cases.patch_grid import SPECIAL_IDS, TEXT, WIDE_VISION
from tests.families.cases.pixtral import PATCH
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn

# With few heads, scores that are all zero would tie, and the choice among them depends
# on how many keys there are.
INDEX_HEADS = 16
HEADS = {name: TEXT[name] for name in ("num_attention_heads", "num_key_value_heads")}
SHARED: dict[str, Any] = {
    name: value
    for name, value in TEXT.items()
    if name not in ("intermediate_size", "rope_parameters")
}


def qwen4_exp() -> nn.Module:
    from transformers import Qwen4ExpConfig, Qwen4ExpForConditionalGeneration

    text = {
        **SHARED,
        "rope_parameters": {
            **TEXT["rope_parameters"],
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.25,
        },
        "head_dim": 32,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "hc_count": 2,
        "hc_lowrank": 16,
        "indexer_n_heads": INDEX_HEADS,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
    }
    vision = {**WIDE_VISION, "num_position_embeddings": 64}
    return Qwen4ExpForConditionalGeneration(
        Qwen4ExpConfig(text_config=text, vision_config=vision, **SPECIAL_IDS)
    )


def minimax_m3_vl() -> nn.Module:
    from transformers import MiniMaxM3SparseForConditionalGeneration, MiniMaxM3VLConfig

    text = {
        **SHARED,
        "head_dim": 16,
        "intermediate_size": 32,
        "dense_intermediate_size": 80,
        "shared_intermediate_size": 32,
        "rotary_dim": 8,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["full_attention", *["minimax_m3_sparse"] * 3],
        "mlp_layer_types": ["dense", *["sparse"] * 3],
        "index_n_heads": TEXT["num_key_value_heads"],
        "index_head_dim": 16,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": patch_grid.PATCH,
    }
    return MiniMaxM3SparseForConditionalGeneration(
        MiniMaxM3VLConfig(
            text_config=text,
            vision_config=vision,
            projector_hidden_size=64,
            image_token_index=IMAGE_TOKEN,
            video_token_index=SPECIAL_IDS["video_token_id"],
        )
    )


def mistral_large4() -> nn.Module:
    from transformers import (
        MistralLarge4Config,
        MistralLarge4ForConditionalGeneration,
        PixtralVisionConfig,
    )

    text = {
        **SHARED,
        "num_key_value_heads": 4,
        "intermediate_size": 80,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "index_topk": 8,
        "index_head_dim": 16,
        "index_n_heads": INDEX_HEADS,
        # The third layer reads the keys of the first; the last one has no positions,
        # and takes the keys that the layer before it has chosen.
        "kv_source_layers": [0, 1, 0, 3],
        "no_rope_layers": [1, 1, 1, 0],
        "indexer_types": ["full", "full", "full", "shared"],
    }
    vision = PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=256,
        patch_size=PATCH,
    )
    return MistralLarge4ForConditionalGeneration(
        MistralLarge4Config(
            text_config=text,
            vision_config=vision,
            image_token_index=IMAGE_TOKEN,
            spatial_merge_size=2,
        )
    )


def dots3_note() -> nn.Module:
    from transformers import Dots3NoteConfig, Dots3NoteForConditionalGeneration

    text = {
        **SHARED,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "intermediate_size": 80,
        "moe_intermediate_size": 32,
        "shared_experts_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "index_topk": 8,
        "index_head_dim": 16,
        "index_n_heads": INDEX_HEADS,
        "sliding_window": 7,
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        # Half as many heads as the others.
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_qk_rope_head_dim": 8,
        "swa_v_head_dim": 12,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": patch_grid.PATCH,
        "mlp_layer_types": ["dense", "dense"],
        "adapter_in_dim": 32,
        "adapter_out_dim": 64,
    }
    audio = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "downsample_hidden_size": 8,
        "adapter_input_size": 32,
        "adapter_out_dim": 64,
    }
    return Dots3NoteForConditionalGeneration(
        Dots3NoteConfig(
            text_config=text,
            vision_config=vision,
            audio_config=audio,
            image_token_id=IMAGE_TOKEN,
            video_token_id=VOCABULARY - 1,
            audio_token_id=VOCABULARY - 2,
        )
    )


BUILDERS = {
    "qwen4_exp": qwen4_exp,
    "minimax_m3_vl": minimax_m3_vl,
    "mistral_large4": mistral_large4,
    "dots3_note": dots3_note,
}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = BUILDERS[variant]()
        roughen(model)
    model.set_attn_implementation(implementation)
    # The others have no kernel for the reference's float64.
    model.set_experts_implementation("eager")
    return model.eval()


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    if variant == "mistral_large4":
        from tests.families.cases import pixtral

        return pixtral.inputs("mistral3", seed, before)
    made = patch_grid.inputs(variant, seed, before)
    if variant == "dots3_note":
        # One frame, where the others have two.
        made["pixel_values"] = made["pixel_values"][:, : 3 * patch_grid.PATCH**2]
    if variant != "qwen4_exp":
        del made["mm_token_type_ids"]
    return made


CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        partial(inputs, variant),
        implementations=("sdpa",),
        # MiniMax M3's blocks of keys are counted from the padding.
        can_be_padded=variant != "minimax_m3_vl",
    )
    for variant in BUILDERS
)
