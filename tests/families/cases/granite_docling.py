"""Granite Docling: two tiles and a copy, on the coarse and on the fine route."""

from functools import partial
from typing import Any

import torch
import transformers
from tests.families.cases.idefics3 import TEXT, tiled_ids, VISION
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen
from torch import nn

NUM_TILES = 3
# Tokens of a tile of 32 x 32 pixels, 8 to a patch.
TILE_TOKENS = {"granite_docling": 4, "granite_docling_fine": 16}


def build(seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    # Before transformers 5.23 there are no such classes.
    config = transformers.GraniteDoclingConfig(
        text_config={**TEXT, "attention_multiplier": 0.3},
        vision_config={
            **VISION,
            "out_hidden_size": TEXT["hidden_size"],
            "scale_factor": 2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=IMAGE_TOKEN,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = transformers.GraniteDoclingForConditionalGeneration(config)
        roughen(model)
    with torch.no_grad():
        # The placeholder is no answer.
        model.lm_head.weight[IMAGE_TOKEN] = 0.0
    model.set_attn_implementation(implementation)
    built: nn.Module = model.eval()
    return built


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(100 + seed)
    made = {
        "input_ids": tiled_ids(seed, before, NUM_TILES, TILE_TOKENS[variant]),
        "pixel_values": torch.randn(1, NUM_TILES, 3, 32, 32, generator=generator),
        "pixel_attention_mask": torch.ones(1, NUM_TILES, dtype=torch.bool),
    }
    if variant == "granite_docling_fine":
        made["tile_fine_mask"] = torch.ones(1, dtype=torch.bool)
    return made


CASES = tuple(
    FamilyCase(variant, build, partial(inputs, variant), implementations=("sdpa",))
    for variant in TILE_TOKENS
)
