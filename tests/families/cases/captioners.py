"""BLIP and GIT, whose decoders compute their attention themselves."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.cross_attention import finished
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import VOCABULARY
from torch import nn
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    GitConfig,
    GitForCausalLM,
)

SIDE, PATCH = 16, 4
TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
    hidden_act="gelu",
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
VISION = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=SIDE,
    patch_size=PATCH,
    initializer_range=0.02,
)


def build_blip(seed: int, implementation: str) -> nn.Module:
    config = BlipConfig(
        text_config=dict(**TEXT, encoder_hidden_size=24, sep_token_id=2),
        vision_config=VISION,
    )
    return finished(partial(BlipForConditionalGeneration, config), seed, implementation)


def build_git(seed: int, implementation: str) -> nn.Module:
    config = GitConfig(vision_config=VISION, **TEXT)
    return finished(partial(GitForCausalLM, config), seed, implementation)


def inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(4, VOCABULARY, (1, before + 2), generator=generator),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=generator),
    }


case = partial(
    FamilyCase, implementations=("eager",), can_be_padded=False, has_own_tests=True
)
CASES = (case("blip", build_blip, inputs), case("git", build_git, inputs))
