"""Tiny random vision-language models of the real classes, built from config.

Weights are scaled up and norms perturbed: with a fresh initialisation attention is
uniform and norm weights are all one, so that mistakes would pass unseen.
"""

from typing import Any

import torch
from torch import nn, Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

IMAGE_TOKEN = 3
VOCABULARY = 99
GRID = 4
NUM_IMAGE_TOKENS = GRID * GRID
VARIANTS = ("llava", "bakllava", "bakllava_sliding", "vipllava")


def tiny_vlm(
    variant: str = "llava",
    seed: int = 0,
    num_layers: int = 3,
    attn_implementation: str = "sdpa",
    **text: Any,
) -> nn.Module:
    """A frozen-size model of 4 x 4 image tokens in eval mode."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    shared = dict(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if variant.startswith("bakllava"):
            window = 8 if variant == "bakllava_sliding" else None
            text_config: Any = MistralConfig(
                **{**shared, "sliding_window": window, **text}
            )
        else:
            text_config = LlamaConfig(**{**shared, **text})
        if variant == "vipllava":
            model: Any = VipLlavaForConditionalGeneration(
                VipLlavaConfig(
                    vision_config=vision,
                    text_config=text_config,
                    image_token_index=IMAGE_TOKEN,
                    vision_feature_layers=[-2, -1, 1],
                    image_seq_length=NUM_IMAGE_TOKENS,
                )
            )
        else:
            model = LlavaForConditionalGeneration(
                LlavaConfig(
                    vision_config=vision,
                    text_config=text_config,
                    image_token_index=IMAGE_TOKEN,
                    vision_feature_layer=-2,
                    vision_feature_select_strategy="default",
                    image_seq_length=NUM_IMAGE_TOKENS,
                )
            )
        roughen(model)
    model.set_attn_implementation(attn_implementation)
    return model.eval()


def roughen(model: nn.Module) -> None:
    """Scales matrices and perturbs vectors, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))


def prompt_inputs(
    seed: int = 0, before: int = 5, after: int = 6, batch: int = 1
) -> dict[str, Tensor]:
    """Random pixels and a prompt with the image between random text tokens."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(4, VOCABULARY, (batch, before + after), generator=generator)
    image = torch.full((batch, NUM_IMAGE_TOKENS), IMAGE_TOKEN)
    return {
        "input_ids": torch.cat([text[:, :before], image, text[:, before:]], dim=1),
        "pixel_values": torch.randn(batch, 3, 32, 32, generator=generator),
    }


def random_targets(num_tokens: int, seed: int = 0, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(4, VOCABULARY, (batch, num_tokens), generator=generator)
