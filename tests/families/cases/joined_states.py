"""Decoders whose last layer's states the model joins before its norm (Gemma 3n's AltUp,
GLM-5 Next's hyper-connections, Inkling 2's block attention residuals), and Inkling,
whose layers mix positions behind their attention, as Inkling 2's do."""

from functools import partial
from typing import Any

import torch
import transformers
from captum_dexar.compatibility import missing_model
from tests.families.cases.idefics3 import tiled_ids
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    ConvNextConfig,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nVisionConfig,
    Glm5NextConfig,
    Glm5NextForConditionalGeneration,
    InklingConfig,
    InklingForConditionalGeneration,
)

PATCH, MERGE, HIDDEN = 8, 2, 48
SIDE = 4
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
INKLING_TEXT: dict[str, Any] = {
    **TEXT,
    "unpadded_vocab_size": VOCABULARY - 4,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 12,
    "sliding_window_size": 8,
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
    "d_rel": 4,
    "rel_extent": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "route_scale": 1.0,
}


def gemma3n() -> nn.Module:
    """With ConvNeXT, which does not need timm, as its convolutional tower."""
    text = {
        **TEXT,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 8,
        "num_kv_shared_layers": 2,
        "altup_num_inputs": 3,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0],
        "final_logit_softcapping": 4.0,
    }
    audio = {
        "vocab_offset": VOCABULARY + 8,
        "vocab_size": 8,
        "hidden_size": 16,
        "input_feat_size": 16,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 1,
        "sscp_conv_channel_size": [4, 4],
    }
    vision: dict[str, Any] = {
        "hidden_size": 32,
        "vocab_size": 8,
        "vocab_offset": VOCABULARY,
        "rms_norm_eps": 1e-6,
    }
    config = Gemma3nConfig(
        text_config=text,
        vision_config=Gemma3nVisionConfig(**vision),
        audio_config=audio,
        vision_soft_tokens_per_image=SIDE**2,
        image_token_id=IMAGE_TOKEN,
        audio_token_id=VOCABULARY - 1,
    )
    tower = ConvNextConfig(
        hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, patch_size=4, **vision
    )
    vars(config)["vision_config"] = tower
    return Gemma3nForConditionalGeneration(config)


def glm5_next() -> nn.Module:
    text = {
        **TEXT,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "mlp_layer_types": ["dense", "sparse"] * 2,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "v_head_dim": 16,
        "qk_nope_head_dim": 12,
        # Chosen by few heads, keys would tie.
        "index_topk": 8,
        "index_kpool": 2,
        "index_head_dim": 8,
        "index_n_heads": 16,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "indexer_types": ["full"] * 4,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "hc_mult": 3,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "patch_size": PATCH,
        "intermediate_size": 48,
        "out_hidden_size": HIDDEN,
        "projection_intermediate_size": 40,
        "image_size": 64,
    }
    ids = {
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": IMAGE_TOKEN,
        "image_start_token_id": VOCABULARY - 4,
        "image_end_token_id": VOCABULARY - 3,
        "video_start_token_id": VOCABULARY - 2,
        "video_end_token_id": VOCABULARY - 1,
    }
    return Glm5NextForConditionalGeneration(
        Glm5NextConfig(text_config=text, vision_config=vision, **ids)
    )


def inkling() -> nn.Module:
    text = {
        **INKLING_TEXT,
        "mlp_layer_types": ["dense", "sparse"] * 2,
        "n_shared_experts": 1,
        "logits_mup_width_multiplier": 3.0,
    }
    vision = {
        "patch_size": PATCH,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    return InklingForConditionalGeneration(
        InklingConfig(
            text_config=text,
            vision_config=vision,
            audio_config={"n_mel_bins": 4, "mel_vocab_size": 4},
            image_token_id=IMAGE_TOKEN,
            audio_token_id=VOCABULARY - 1,
        )
    )


def inkling2() -> nn.Module:
    vision = {
        "patch_size": PATCH // MERGE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "posemb_grid_size": 4,
        "projection_hidden_dim": 40,
        "text_hidden_size": HIDDEN,
    }
    text = {
        **INKLING_TEXT,
        "n_layers_per_attn_res_block": 2,
        "final_logit_softcapping": 4.0,
    }
    # Older versions of transformers lack it.
    config: Any = transformers.Inkling2Config
    model: nn.Module = transformers.Inkling2ForConditionalGeneration(
        config(text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN)
    )
    return model


BUILDERS = {
    "gemma3n": gemma3n,
    "glm5_next": glm5_next,
    "inkling_mm_model": inkling,
    "inkling2": inkling2,
}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = BUILDERS[variant]()
        roughen(model)
        for parameter in model.parameters():
            if not parameter.any():
                # Freshly made, Inkling 2's queries of blocks are zero.
                nn.init.normal_(parameter, std=0.3)
    if variant == "gemma3n":
        # Its tower has no attention.
        model.set_attn_implementation({"text_config": implementation})
    else:
        model.set_attn_implementation(implementation)
    # Grouped matrix products do not take the reference's float64.
    model.set_experts_implementation("eager")
    return model.eval()


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(100 + seed)
    rows, columns = (2, 3) if seed % 2 == 0 else (3, 2)
    num_tokens = SIDE**2 if variant == "gemma3n" else rows * columns
    ids = tiled_ids(seed, before, 1, num_tokens)
    made: dict[str, Any] = {"input_ids": ids}
    if variant == "gemma3n":
        shape: tuple[int, ...] = (1, 3, 32, 32)
        made["token_type_ids"] = (ids == IMAGE_TOKEN).long()
    elif variant == "glm5_next":
        shape = (num_tokens * MERGE**2, 3 * 2 * PATCH**2)
        grid = [[1, rows * MERGE, columns * MERGE]]
        made["image_grid_thw"] = torch.tensor(grid)
    elif variant == "inkling2":
        shape = (num_tokens, PATCH, PATCH, 3)
        made["image_grid_thw"] = torch.tensor([[1, rows, columns]])
    else:
        shape = (num_tokens, 2, PATCH, PATCH, 3)
    made["pixel_values"] = torch.randn(shape, generator=generator)
    if variant == "inkling_mm_model":
        # Padding at the right shows the grid.
        made["pixel_values"][columns - 1 :: columns, :, :, -3:] = -9.0
    return made


CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        partial(inputs, variant),
        # Inkling 2 has no other than its own.
        implementations=("eager" if variant == "inkling2" else "sdpa",),
    )
    for variant in BUILDERS
    if missing_model(variant) is None
)
