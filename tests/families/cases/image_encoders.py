"""Models whose encoder reads the image alone, and whose decoder has no prompt."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.cross_attention import finished
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import VOCABULARY
from torch import nn
from transformers import (
    DeiTConfig,
    DonutSwinConfig,
    MBartConfig,
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    PPFormulaNetConfig,
    PPFormulaNetForConditionalGeneration,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

TOKENS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2)
PATCH, MAX_PATCHES = 4, 12
FORMULA_SIDE = 48
DONUT_SIZE = (32, 48)


def build_pix2struct(seed: int, implementation: str) -> nn.Module:
    shared = dict(hidden_size=32, d_kv=8, d_ff=48, dropout_rate=0.0)
    config = Pix2StructConfig(
        text_config=dict(
            vocab_size=VOCABULARY, num_layers=3, num_heads=4, **shared, **TOKENS
        ),
        vision_config=dict(
            patch_embed_hidden_size=3 * PATCH**2,
            num_hidden_layers=2,
            num_attention_heads=4,
            seq_len=32,
            initializer_range=0.02,
            **shared,
        ),
        tie_word_embeddings=False,
    )
    return finished(
        partial(Pix2StructForConditionalGeneration, config), seed, implementation
    )


def build_pp_formulanet(seed: int, implementation: str) -> nn.Module:
    config = PPFormulaNetConfig(
        text_config=dict(
            vocab_size=VOCABULARY,
            d_model=32,
            decoder_layers=3,
            decoder_attention_heads=4,
            decoder_ffn_dim=48,
            encoder_layers=2,
            encoder_attention_heads=4,
            max_position_embeddings=64,
            forced_eos_token_id=None,
            **TOKENS,
        ),
        vision_config=dict(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=FORMULA_SIDE,
            patch_size=4,
            window_size=6,
            global_attn_indexes=[1],
            mlp_dim=32,
            initializer_range=0.02,
            post_conv_in_channels=16,
            post_conv_mid_channels=16,
            post_conv_out_channels=32,
            decoder_hidden_size=32,
        ),
    )
    return finished(
        partial(PPFormulaNetForConditionalGeneration, config), seed, implementation
    )


def build_vision_encoder_decoder(
    encoder: Any, decoder: Any, seed: int, implementation: str
) -> nn.Module:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, **TOKENS
    )
    return finished(partial(VisionEncoderDecoderModel, config), seed, implementation)


def build_trocr(seed: int, implementation: str, encoder: str = "vit") -> nn.Module:
    tower = {"vit": ViTConfig, "deit": DeiTConfig}[encoder](
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
    )
    decoder = TrOCRConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        cross_attention_hidden_size=24,
        dropout=0.0,
        **TOKENS,
    )
    return build_vision_encoder_decoder(tower, decoder, seed, implementation)


def build_donut(seed: int, implementation: str) -> nn.Module:
    tower = DonutSwinConfig(
        image_size=DONUT_SIZE,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=2,
    )
    decoder = MBartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        dropout=0.0,
        forced_eos_token_id=None,
        **TOKENS,
    )
    return build_vision_encoder_decoder(tower, decoder, seed, implementation)


def pix2struct_inputs(seed: int, before: int) -> dict[str, Any]:
    """A grid of 2 x 5 patches, and room for two more."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = 2, 5
    patches = torch.zeros(1, MAX_PATCHES, 2 + 3 * PATCH**2)
    used = rows * columns
    patches[0, :used, 0] = 1.0 + torch.arange(used) // columns
    patches[0, :used, 1] = 1.0 + torch.arange(used) % columns
    patches[0, :used, 2:] = torch.randn(used, 3 * PATCH**2, generator=generator)
    mask = (torch.arange(MAX_PATCHES) < used).float()
    return {"flattened_patches": patches, "attention_mask": mask[None]}


def pixels(seed: int, before: int, height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(1, 3, height, width, generator=generator)}


def donut_inputs(seed: int, before: int) -> dict[str, Any]:
    """With a task's prompt, which takes the place of the start token."""
    generator = torch.Generator().manual_seed(100 + seed)
    task = torch.randint(4, VOCABULARY, (1, 3), generator=generator)
    return {**pixels(seed, before, *DONUT_SIZE), "decoder_input_ids": task}


# There is no prompt to be padded.
case = partial(FamilyCase, can_be_padded=False, has_own_tests=True)

CASES = (
    case("pix2struct", build_pix2struct, pix2struct_inputs),
    case(
        "pp_formulanet",
        build_pp_formulanet,
        partial(pixels, height=FORMULA_SIDE, width=FORMULA_SIDE),
    ),
    case(
        "trocr",
        build_trocr,
        partial(pixels, height=16, width=16),
        implementations=("eager",),
    ),
    case("donut", build_donut, donut_inputs),
)
