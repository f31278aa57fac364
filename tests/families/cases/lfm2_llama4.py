"""LFM2-VL (convolution and attention) and Llama 4 (experts, chunks, no positions)."""

from typing import Any

import torch
from tests.families.cases.idefics3 import TEXT, tiled_ids, VISION
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen
from torch import nn
from transformers import (
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4TextConfig,
    Llama4VisionConfig,
    Siglip2VisionConfig,
)

NUM_TILES = 3
TILE_TOKENS = 4


def lfm2_vl(seed: int, implementation: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vision = {key: VISION[key] for key in VISION if key != "image_size"}
        model = Lfm2VlForConditionalGeneration(
            Lfm2VlConfig(
                text_config=Lfm2Config(
                    **{
                        **TEXT,
                        "num_hidden_layers": 4,
                        "layer_types": ["conv", "full_attention"] * 2,
                        "block_auto_adjust_ff_dim": False,
                    }
                ),
                vision_config=Siglip2VisionConfig(
                    **vision, num_patches=16, vision_use_head=False
                ),
                image_token_id=IMAGE_TOKEN,
                projector_hidden_size=40,
            )
        )
        roughen(model)
    return in_eval_mode(model, implementation)


def llama4(seed: int, implementation: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Llama4ForConditionalGeneration(
            Llama4Config(
                text_config=Llama4TextConfig(
                    **{
                        **TEXT,
                        "num_hidden_layers": 4,
                        "head_dim": 12,
                        "intermediate_size_mlp": 80,
                        "num_local_experts": 2,
                        "interleave_moe_layer_step": 2,
                        "attention_chunk_size": 8,
                        "no_rope_layers": [1, 1, 1, 0],
                        "floor_scale": 8,
                    }
                ),
                vision_config=Llama4VisionConfig(
                    **{**VISION, "intermediate_size": 128},
                    vision_output_dim=40,
                    projector_input_dim=40,
                    projector_output_dim=40,
                ),
                image_token_index=IMAGE_TOKEN,
            )
        )
        roughen(model)
    return in_eval_mode(model, implementation)


def in_eval_mode(model: Any, implementation: str) -> nn.Module:
    model.set_attn_implementation(implementation)
    built: nn.Module = model.eval()
    return built


def lfm2_vl_inputs(seed: int, before: int) -> dict[str, Any]:
    """Two tiles, then a smaller copy of the whole image."""
    generator = torch.Generator().manual_seed(100 + seed)
    ids = tiled_ids(seed, before, NUM_TILES, TILE_TOKENS)
    # The last block has two tokens less.
    places = (ids[0] == IMAGE_TOKEN).nonzero()[:, 0]
    ids = ids[:, [i for i in range(ids.shape[1]) if i not in places[-2:].tolist()]]
    pixels = torch.randn(NUM_TILES, 16, 3 * 8**2, generator=generator)
    mask = torch.ones(NUM_TILES, 16, dtype=torch.long)
    mask[-1, 8:] = 0
    return {
        "input_ids": ids,
        "pixel_values": pixels * mask[..., None],
        "spatial_shapes": torch.tensor([[4, 4], [4, 4], [2, 4]]),
        "pixel_attention_mask": mask,
    }


def llama4_inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(100 + seed)
    return {
        "input_ids": tiled_ids(seed, before, NUM_TILES, TILE_TOKENS),
        "pixel_values": torch.randn(NUM_TILES, 3, 32, 32, generator=generator),
    }


CASES = (
    FamilyCase("lfm2_vl", lfm2_vl, lfm2_vl_inputs),
    FamilyCase("llama4", llama4, llama4_inputs),
)
