"""Granite 4 Vision: a copy and a canvas of four tiles, of 4 x 4 tokens each."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.tiled_canvas import ORIGINAL, PINPOINTS, TEXT, TILE
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    CLIPVisionConfig,
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
)

PATCH = 4
NUM_TILES = 4
# Six rows of eight tokens remain of the canvas.
NUM_IMAGE_TOKENS = 16 + 6 * 9


def build(seed: int = 0, implementation: str = "sdpa", rate: str = "2/4") -> nn.Module:
    """
    Args:
        seed: of the random weights
        implementation: of the attention
        rate: sides of a window in tokens and in patches
    """
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
    )
    text = {
        **TEXT,
        "num_hidden_layers": 5,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.0,
    }
    config = Granite4VisionConfig(
        vision_config=vision,
        text_config=text,
        qformer_config={"model_type": "blip_2_qformer", "intermediate_size": 48},
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=PINPOINTS,
        downsample_rate=rate,
        deepstack_layer_map=[[-2, 0]],
        spatial_target_layers=[1, 2, 3, 4],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = Granite4VisionForConditionalGeneration(config)
        roughen(model)
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        # The placeholder is no answer.
        model.lm_head.weight[IMAGE_TOKEN] = 0.0
    built: nn.Module = model.eval()
    return built


def inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, VOCABULARY, (before + 6,), generator=generator).tolist()
    image = [IMAGE_TOKEN] * NUM_IMAGE_TOKENS
    return {
        "input_ids": torch.tensor([words[:before] + image + words[before:]]),
        "pixel_values": torch.randn(
            1, 1 + NUM_TILES, 3, TILE, TILE, generator=generator
        ),
        "image_sizes": torch.tensor([ORIGINAL]),
    }


CASES = (
    FamilyCase("granite4_vision", partial(build), inputs, implementations=("sdpa",)),
)
