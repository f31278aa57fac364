"""Emu3, whose images are tokens of its vocabulary, row by row."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.cross_attention import finished
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from torch import nn
from transformers import Emu3Config, Emu3ForConditionalGeneration

# The last tokens of the vocabulary are the line break and those of images.
NUM_CODES = 12
FIRST_CODE = VOCABULARY - NUM_CODES
LINE_BREAK = FIRST_CODE - 1
CODE_SPREAD = 20.0
SIDE = 8
GRID = (3, 4)


def build(seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    codes = {
        f"<|visual token {code:06d}|>": FIRST_CODE + code for code in range(NUM_CODES)
    }
    config = Emu3Config(
        text_config={
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
        },
        vq_config={
            "codebook_size": NUM_CODES,
            "base_channels": 32,
            "channel_multiplier": (1, 1, 1, 1),
            "num_res_blocks": 1,
            "attn_resolutions": (),
            "hidden_size": 32,
        },
        vocabulary_map={"<image>": IMAGE_TOKEN, "<|extra_200|>": LINE_BREAK, **codes},
    )
    model: Any = finished(
        partial(Emu3ForConditionalGeneration, config), seed, implementation
    )
    with torch.no_grad():
        # Otherwise all patches would be nearest to the same code.
        model.model.vqmodel.quant_conv.conv.weight.mul_(CODE_SPREAD)
        # The placeholder is no answer.
        model.lm_head.weight[IMAGE_TOKEN] = 0.0
    return model


def inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, LINE_BREAK, (before + 6,), generator=generator).tolist()
    rows, columns = GRID
    image = [IMAGE_TOKEN] * (rows * (columns + 1))
    size = (rows * SIDE, columns * SIDE)
    return {
        "input_ids": torch.tensor([words[:before] + image + words[before:]]),
        "pixel_values": torch.randn(1, 3, *size, generator=generator),
        "image_sizes": torch.tensor([size]),
    }


CASES = (FamilyCase("emu3", build, inputs, implementations=("sdpa",)),)
