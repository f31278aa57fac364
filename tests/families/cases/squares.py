"""One square picture per image: Video-LLaVA, FastVLM, DeepSeek-VL, Janus,
ShieldGemma 2."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.gemma import (
    BEGIN_OF_IMAGE,
    END_OF_IMAGE,
    gemma3_inputs,
    LAYERS,
)
from tests.families.cases.idefics3 import TEXT as GEMMA_TEXT, VISION as GEMMA_VISION
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import (
    IMAGE_TOKEN,
    NUM_IMAGE_TOKENS,
    prompt_inputs,
    roughen,
    VOCABULARY,
)
from torch import nn
from transformers import (
    CLIPVisionConfig,
    ConvNextConfig,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    Qwen2Config,
    SamVisionConfig,
    ShieldGemma2Config,
    SiglipVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

SIDE, PATCH = 32, 8
HIGH_SIDE, HIGH_PATCH = 64, 4
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
SIGLIP: dict[str, Any] = {**VISION, "vision_use_head": False}


def video_llava() -> nn.Module:
    return VideoLlavaForConditionalGeneration(
        VideoLlavaConfig(
            vision_config=CLIPVisionConfig(**VISION),
            text_config=LlamaConfig(**TEXT),
            image_token_index=IMAGE_TOKEN,
            video_token_index=VOCABULARY - 1,
            image_seq_length=NUM_IMAGE_TOKENS,
        )
    )


def fast_vlm() -> nn.Module:
    """With ConvNeXT, which does not need timm, as its convolutional tower."""
    tower = ConvNextConfig(
        num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], patch_size=4
    )
    tower.hidden_size = tower.hidden_sizes[-1]
    return FastVlmForConditionalGeneration(
        FastVlmConfig(
            vision_config=tower,
            text_config=Qwen2Config(**TEXT),
            image_token_index=IMAGE_TOKEN,
            image_seq_length=NUM_IMAGE_TOKENS,
        )
    )


def deepseek_vl() -> nn.Module:
    return DeepseekVLForConditionalGeneration(
        DeepseekVLConfig(
            vision_config=SiglipVisionConfig(**SIGLIP),
            text_config=LlamaConfig(**TEXT),
            image_token_id=IMAGE_TOKEN,
        )
    )


def deepseek_vl_hybrid() -> nn.Module:
    return DeepseekVLHybridForConditionalGeneration(
        DeepseekVLHybridConfig(
            vision_config=SiglipVisionConfig(**SIGLIP),
            high_res_vision_config=SamVisionConfig(
                hidden_size=16,
                output_channels=8,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=HIGH_SIDE,
                patch_size=HIGH_PATCH,
                window_size=4,
                global_attn_indexes=[1],
                mlp_dim=24,
                # The default leaves features that are all but zero.
                initializer_range=0.1,
            ),
            text_config=LlamaConfig(**TEXT),
            image_token_id=IMAGE_TOKEN,
        )
    )


def janus() -> nn.Module:
    return JanusForConditionalGeneration(
        JanusConfig(
            vision_config=JanusVisionConfig(
                **VISION, projection_dim=TEXT["hidden_size"]
            ),
            vq_config=JanusVQVAEConfig(
                embed_dim=8,
                num_embeddings=16,
                # Its group norms have 32 groups of channels.
                latent_channels=32,
                base_channels=32,
                channel_multiplier=[1, 1],
                num_res_blocks=1,
                projection_dim=16,
                image_token_embed_dim=16,
            ),
            text_config=LlamaConfig(**TEXT),
            image_token_id=IMAGE_TOKEN,
        )
    )


def shieldgemma2() -> nn.Module:
    model = Gemma3ForConditionalGeneration(
        ShieldGemma2Config(
            text_config=Gemma3TextConfig(
                **{**GEMMA_TEXT, **LAYERS, "query_pre_attn_scalar": 16}
            ),
            vision_config=SiglipVisionConfig(
                **{**GEMMA_VISION, "patch_size": 4, "vision_use_head": False}
            ),
            mm_tokens_per_image=16,
            boi_token_index=BEGIN_OF_IMAGE,
            eoi_token_index=END_OF_IMAGE,
            image_token_index=IMAGE_TOKEN,
        )
    )
    # Freshly made, the projection of image features is zero.
    nn.init.normal_(
        model.model.multi_modal_projector.mm_input_projection_weight, std=0.1
    )
    return model


MAKERS: dict[str, Any] = {
    "video_llava": video_llava,
    "fast_vlm": fast_vlm,
    "deepseek_vl": deepseek_vl,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "janus": janus,
    "shieldgemma2": shieldgemma2,
}


# With the weights of the first seeds, text outweighs the image in every head.
FIRST_SEEDS = {"deepseek_vl": 10}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed + FIRST_SEEDS.get(variant, 0))
        model = MAKERS[variant]()
        roughen(model)
    # A convolutional vision tower has no attention.
    model.set_attn_implementation({"text_config": implementation})
    return model.eval()


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    made: dict[str, Any] = dict(prompt_inputs(seed, before))
    if variant == "video_llava":
        made["pixel_values_images"] = made.pop("pixel_values")
    if variant == "deepseek_vl_hybrid":
        generator = torch.Generator().manual_seed(seed)
        made["high_res_pixel_values"] = torch.randn(
            1, 3, HIGH_SIDE, HIGH_SIDE, generator=generator
        )
    return made


CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        gemma3_inputs if variant == "shieldgemma2" else partial(inputs, variant),
        implementations=("sdpa",),
    )
    for variant in MAKERS
)
