"""LLaVA-NeXT, LLaVA-NeXT-Video, LLaVA-OneVision with and without a shrunk canvas."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

TILE, PATCH = 32, 8
# Heights and widths of canvases: up to two rows, and one of four columns.
PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 128], [128, 32]]
ORIGINAL = (50, 71)
NUM_TILES = 4
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
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": PATCH,
}
SHARED: dict[str, Any] = {
    "image_token_index": IMAGE_TOKEN,
    "image_grid_pinpoints": PINPOINTS,
}


def llava_next(vision: dict[str, Any] = VISION) -> nn.Module:
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIPVisionConfig(**vision),
            text_config=LlamaConfig(**TEXT),
            **SHARED,
        )
    )


def llava_next_video() -> nn.Module:
    return LlavaNextVideoForConditionalGeneration(
        LlavaNextVideoConfig(
            vision_config=CLIPVisionConfig(**VISION),
            text_config=LlamaConfig(**TEXT),
            video_token_index=VOCABULARY - 1,
            **SHARED,
        )
    )


def llava_onevision(
    vision: dict[str, Any] = VISION, aspect_ratio: str = "anyres_max_9"
) -> nn.Module:
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
            text_config=Qwen2Config(**TEXT),
            video_token_index=VOCABULARY - 1,
            vision_aspect_ratio=aspect_ratio,
            **SHARED,
        )
    )


MAKERS: dict[str, Any] = {
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
    "llava_onevision_shrunk": partial(llava_onevision, aspect_ratio="anyres_max_1"),
}

# The whole image, and rows of the canvas with a newline each: six rows of eight tokens
# remain of a canvas of 64 x 64 pixels, three rows of four when it is shrunk.
NUM_IMAGE_TOKENS = {
    "llava_next": 16 + 6 * 9,
    "llava_next_video": 16 + 6 * 9,
    "llava_onevision": 16 + 6 * 9,
    "llava_onevision_shrunk": 16 + 3 * 5,
}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = MAKERS[variant]()
        roughen(model)
        if variant.startswith("llava_onevision"):
            # SigLIP starts with large weights: tripled, its attention is so steep that
            # float32 errors of autograd and closed form alike come near the tolerance.
            with torch.no_grad():
                for parameter in model.model.vision_tower.parameters():
                    if parameter.dim() > 1:
                        parameter.div_(3.0)
    model.set_attn_implementation(implementation)
    made: nn.Module = model.eval()
    return made


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(1, 1 + NUM_TILES, 3, TILE, TILE, generator=generator)
    sizes = torch.tensor([ORIGINAL])
    image = [IMAGE_TOKEN] * NUM_IMAGE_TOKENS[variant]
    words = torch.randint(4, VOCABULARY - 1, (before + 6,), generator=generator)
    text: list[int] = words.tolist()
    return {
        "input_ids": torch.tensor([text[:before] + image + text[before:]]),
        "pixel_values": pixels,
        "image_sizes": sizes,
    }


CASES = tuple(
    FamilyCase(variant, partial(build, variant), partial(inputs, variant))
    for variant in MAKERS
)
