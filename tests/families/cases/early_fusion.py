"""Fuyu, whose patches are tokens, and Chameleon, with image tokens of its own."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.cross_attention import finished
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs, VOCABULARY
from torch import nn
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    FuyuConfig,
    FuyuForCausalLM,
    PersimmonConfig,
)
from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig

NEWLINE_TOKEN = 4
FUYU_PATCH, FUYU_GRID = 6, (3, 5)
# The last tokens of the vocabulary are those of images.
NUM_CODES = 12
CODE_SPREAD = 20.0
CHAMELEON_SIDE = 16


def build_fuyu(seed: int, implementation: str) -> nn.Module:
    text = PersimmonConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = FuyuConfig(
        text_config=text.to_dict(), patch_size=FUYU_PATCH, image_token_id=IMAGE_TOKEN
    )
    return finished(partial(FuyuForCausalLM, config), seed, implementation)


def fuyu_inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(5, VOCABULARY, (1, before + 6), generator=generator)
    rows, columns = FUYU_GRID
    row = [IMAGE_TOKEN] * columns + [NEWLINE_TOKEN]
    image = torch.tensor([row * rows])
    patches = torch.randn(rows * columns, 3 * FUYU_PATCH**2, generator=generator)
    return {
        "input_ids": torch.cat([text[:, :before], image, text[:, before:]], dim=1),
        "pixel_values": patches,
    }


def build_chameleon(swin_norm: bool, seed: int, implementation: str) -> nn.Module:
    # The name of a code spells its number in letters, A for 0.
    codes = {
        "IMGIMG"
        + "".join(chr(ord("A") + int(digit)) for digit in str(code))
        + "Z": (VOCABULARY - NUM_CODES + code)
        for code in range(NUM_CODES)
    }
    config = ChameleonConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        swin_norm=swin_norm,
        pad_token_id=0,
        vocabulary_map={"<image>": IMAGE_TOKEN, **codes},
        vq_config=ChameleonVQVAEConfig(
            embed_dim=16,
            num_embeddings=NUM_CODES,
            latent_channels=16,
            resolution=CHAMELEON_SIDE,
            base_channels=32,
            channel_multiplier=(1, 1, 1),
            num_res_blocks=1,
        ),
    )
    model: Any = finished(
        partial(ChameleonForConditionalGeneration, config), seed, implementation
    )
    with torch.no_grad():
        # Otherwise all patches would be nearest to the shortest code.
        model.model.vqmodel.quant_conv.weight.mul_(CODE_SPREAD)
        # The placeholder is no answer.
        model.lm_head.weight[IMAGE_TOKEN] = 0.0
        if swin_norm:
            # Norms after large products magnify rounding errors of float32.
            for parameter in model.model.layers.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(0.5)
    return model


def chameleon_inputs(seed: int, before: int) -> dict[str, Any]:
    made: dict[str, Any] = dict(prompt_inputs(seed, before=before))
    made["pixel_values"] = made["pixel_values"][..., :CHAMELEON_SIDE, :CHAMELEON_SIDE]
    ids = made["input_ids"]
    made["input_ids"] = ids.where(ids < VOCABULARY - NUM_CODES, ids - NUM_CODES)
    return made


CASES = (
    FamilyCase("fuyu", build_fuyu, fuyu_inputs),
    FamilyCase("chameleon", partial(build_chameleon, False), chameleon_inputs),
    FamilyCase("chameleon_swin", partial(build_chameleon, True), chameleon_inputs),
)
