"""IDEFICS: gated cross-attention between the decoder's layers."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.cross_attention import finished
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from torch import nn
from transformers import IdeficsConfig, IdeficsForVisionText2Text

SIDE, PATCH = 16, 4


def build(
    seed: int, implementation: str, interval: int = 2, resampler: bool = False
) -> nn.Module:
    config = IdeficsConfig(
        vocab_size=VOCABULARY - 2,
        additional_vocab_size=2,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        alpha_initializer="ones",
        cross_layer_interval=interval,
        qk_layer_norms=True,
        use_resampler=resampler,
        freeze_text_layers=False,
        freeze_vision_layers=False,
        perceiver_config=dict(
            resampler_n_latents=6,
            resampler_depth=2,
            resampler_n_heads=2,
            resampler_head_dim=12,
            qk_layer_norms_perceiver=True,
        ),
        vision_config=dict(
            embed_dim=24,
            image_size=SIDE,
            patch_size=PATCH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return finished(partial(IdeficsForVisionText2Text, config), seed, implementation)


def inputs(seed: int, before: int, num_images: int = 1) -> dict[str, Any]:
    """A token sees the image that comes last before it."""
    generator = torch.Generator().manual_seed(seed)
    pieces, seen = [], []
    for image in range(num_images):
        text = torch.randint(4, VOCABULARY - 2, (before,), generator=generator)
        pieces += [text, torch.tensor([IMAGE_TOKEN])]
        seen += [image - 1] * before + [image]
    pieces.append(torch.randint(4, VOCABULARY - 2, (5,), generator=generator))
    seen += [num_images - 1] * 5
    mask = torch.tensor(seen)[:, None] == torch.arange(num_images)
    pixels = torch.randn(1, num_images, 3, SIDE, SIDE, generator=generator)
    return {
        "input_ids": torch.cat(pieces)[None],
        "pixel_values": pixels,
        "image_attention_mask": mask[None].long(),
    }


CASES = (
    FamilyCase("idefics", build, inputs, implementations=("sdpa",), has_own_tests=True),
    FamilyCase(
        "idefics_two_images",
        partial(build, interval=1),
        partial(inputs, num_images=2),
        implementations=("sdpa",),
        has_own_tests=True,
    ),
    FamilyCase(
        "idefics_resampler",
        partial(build, interval=1, resampler=True),
        partial(inputs, num_images=2),
        implementations=("sdpa",),
        has_own_tests=True,
        places="resampler",
    ),
)
