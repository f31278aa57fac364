"""Families with one square picture per image: boxes, prompts, settings, pixels."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config
from tests.families.cases import squares
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.square_processors import PROCESSORS
from tests.helpers.tiny_models import NUM_IMAGE_TOKENS
from torch import nn, Tensor

SHAPES = (
    (48, 48),
    (50, 71),
    (31, 77),
    (77, 31),
    (33, 130),
    (130, 33),
    (64, 65),
    (7, 5),
    (5, 12),
    (6, 90),
    (400, 1500),
)
# The vision tower, and the output projections that mix its patches.
SILENCED = {
    "video_llava": ("image_tower", "self_attn.out_proj"),
    "fast_vlm": ("vision_tower", "pwconv2"),
    "deepseek_vl": ("vision_model", "self_attn.out_proj"),
    "deepseek_vl_hybrid": ("vision_model", "self_attn.out_proj"),
    "janus": ("vision_model", "self_attn.projection_layer"),
    "shieldgemma2": ("vision_tower", "self_attn.out_proj"),
}
PADDED = ("deepseek_vl", "deepseek_vl_hybrid", "janus")


@lru_cache
def silent_model(variant: str) -> Any:
    model: Any = silence_vision_attention(squares.build(variant), *SILENCED[variant])
    if variant == "deepseek_vl_hybrid":
        # SAM's half of the features; it has a test of its own.
        for parameter in model.model.aligner.high_res_vision_proj.parameters():
            nn.init.zeros_(parameter)
    return model


def features_by(model: Any) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        pixels = {
            name.removesuffix("_images"): value
            for name, value in inputs.items()
            if "pixel_values" in name
        }
        tokens: Tensor = model.base_model.get_image_features(**pixels).pooler_output
        return tokens.flatten(0, -2)

    return features


def prompt_of(variant: str, processor: Any) -> str:
    """A whole prompt, so that no chat template is needed."""
    return f"{processor.image_token} is red"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", PROCESSORS)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    variant: str, shape: tuple[int, int]
) -> None:
    model, processor = silent_model(variant), PROCESSORS[variant]()
    text = prompt_of(variant, processor)
    inp = ImagePromptInput(dark_image(*shape), text, processor, model)
    report = block_report(inp, random_blocks(*shape, 12), features_by(model))
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()
    if variant != "fast_vlm":  # its processor is LLaVA's
        by_processor = ImagePromptInput(dark_image(*shape), text, processor)
        assert by_processor.layout == inp.layout
