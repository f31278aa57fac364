"""Models whose encoder reads image and prompt, each in a way of its own."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.cross_attention import finished
from tests.families.cases.gemma import BEGIN_OF_IMAGE, END_OF_IMAGE, LAYERS, PATCH
from tests.families.cases.idefics3 import TEXT, tiled_ids, VISION
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from torch import nn
from transformers import (
    SiglipVisionConfig,
    T5Gemma2Config,
    T5Gemma2DecoderConfig,
    T5Gemma2EncoderConfig,
    T5Gemma2ForConditionalGeneration,
    T5Gemma2TextConfig,
    UdopConfig,
    UdopForConditionalGeneration,
)

# Tokens with which the decoders start.
BEGIN, PAD = 1, 0
# Of UDOP, 4 x 4 patches.
PAGE, PAGE_PATCH = 32, 8


def build_t5gemma2(seed: int, implementation: str) -> nn.Module:
    # Answers are longer than the window.
    text = {**TEXT, **LAYERS, "query_pre_attn_scalar": 16, "sliding_window": 2}
    vision = SiglipVisionConfig(
        **{**VISION, "patch_size": PATCH, "vision_use_head": False}
    )
    encoder = T5Gemma2EncoderConfig(
        text_config=T5Gemma2TextConfig(**text),
        vision_config=vision,
        mm_tokens_per_image=16,
        boi_token_index=BEGIN_OF_IMAGE,
        eoi_token_index=END_OF_IMAGE,
        image_token_index=IMAGE_TOKEN,
    )
    config = T5Gemma2Config(
        encoder=encoder,
        decoder=T5Gemma2DecoderConfig(**text, final_logit_softcapping=20.0),
        image_token_index=IMAGE_TOKEN,
    )
    model: Any = finished(
        partial(T5Gemma2ForConditionalGeneration, config), seed, implementation
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Freshly made, the projection of image features is zero.
        projector = model.model.encoder.multi_modal_projector
        nn.init.normal_(projector.mm_input_projection_weight, std=0.3)
    model.generation_config.decoder_start_token_id = BEGIN
    return model


def t5gemma2_inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(100 + seed)
    ids = tiled_ids(seed, before, 1, 16)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "decoder_input_ids": torch.tensor([[BEGIN]]),
        "pixel_values": torch.randn(1, 3, 32, 32, generator=generator),
    }


def build_udop(seed: int, implementation: str) -> nn.Module:
    config = UdopConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=4,
        dropout_rate=0.0,
        image_size=PAGE,
        patch_size=PAGE_PATCH,
        max_2d_position_embeddings=64,
    )
    make = partial(UdopForConditionalGeneration, config)
    model: Any = finished(make, seed, implementation)
    model.generation_config.decoder_start_token_id = PAD
    return model


def udop_inputs(seed: int, before: int, scale: float = 1.0) -> dict[str, Any]:
    """A question without boxes, five words, two of them on one patch, and the end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY, (1, before + 6), generator=generator)
    corners = torch.tensor(
        [[0.3, 0.1], [0.35, 0.1], [0.3, 0.6], [0.55, 0.6], [0.8, 0.1]]
    )
    words = scale * torch.cat([corners, corners + 0.1], dim=1)
    boxes = [torch.zeros(before, 4), words, torch.full((1, 4), scale)]
    return {
        "input_ids": ids,
        "bbox": torch.cat(boxes)[None],
        "attention_mask": torch.ones_like(ids),
        "decoder_input_ids": torch.tensor([[PAD]]),
        "pixel_values": torch.randn(1, 3, PAGE, PAGE, generator=generator),
    }


CASES = (
    # In float64 the error is 1e-6.
    FamilyCase("t5gemma2", build_t5gemma2, t5gemma2_inputs, tolerance=5e-5),
    # Padding would take the first patch away.
    FamilyCase("udop", build_udop, udop_inputs, can_be_padded=False),
)
