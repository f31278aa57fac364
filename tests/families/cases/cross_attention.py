"""Florence-2 and Mllama, whose decoders read the image by cross-attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    BartConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
)
from transformers.models.mllama.configuration_mllama import (
    MllamaTextConfig,
    MllamaVisionConfig,
)

# A grid of 3 x 3 patches of a tile, and a CLS token.
TILE, MAX_TILES, KEYS_PER_TILE = 24, 4, 10
# Numbers of the aspect ratios that transformers gives 1 x 1, 1 x 3 and 2 x 2 tiles.
ONE_TILE, THREE_IN_A_ROW, TWO_BY_TWO = 1, 3, 6
FLORENCE_GRID = 4


def build_florence2(seed: int, implementation: str) -> nn.Module:
    vision = Florence2VisionConfig(
        depths=(1, 1),
        patch_size=(7, 3),
        patch_stride=(4, 2),
        patch_padding=(3, 1),
        patch_prenorm=(False, True),
        embed_dim=(16, 32),
        num_heads=(2, 2),
        num_groups=(2, 2),
        window_size=2,
        projection_dim=48,
    )
    text = BartConfig(
        vocab_size=VOCABULARY,
        d_model=48,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return finished(
        partial(
            Florence2ForConditionalGeneration,
            Florence2Config(
                vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN
            ),
        ),
        seed,
        implementation,
    )


def build_mllama(
    seed: int, implementation: str, cross_attention_layers: Sequence[int] = (1, 2)
) -> nn.Module:
    vision = MllamaVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_global_layers=1,
        attention_heads=2,
        intermediate_size=48,
        image_size=TILE,
        patch_size=8,
        vision_output_dim=96,
        intermediate_layers_indices=[0, 2],
        max_num_tiles=MAX_TILES,
    )
    text = MllamaTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        cross_attention_layers=list(cross_attention_layers),
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return finished(
        partial(
            MllamaForConditionalGeneration,
            MllamaConfig(
                vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN
            ),
        ),
        seed,
        implementation,
    )


def finished(make: Any, seed: int, implementation: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = make()
        roughen(model)
    model.set_attn_implementation(implementation)
    return model.eval()


def florence2_inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(4, VOCABULARY, (1, before + 6), generator=generator)
    # The mean of all features is the first image token.
    image = torch.full((1, 1 + FLORENCE_GRID**2), IMAGE_TOKEN)
    return {
        "input_ids": torch.cat([text[:, :before], image, text[:, before:]], dim=1),
        "pixel_values": torch.randn(1, 3, 32, 32, generator=generator),
    }


def mllama_inputs(
    seed: int, before: int, ratios: Sequence[int] = (THREE_IN_A_ROW,)
) -> dict[str, Any]:
    """One or more images, each visible to the text that follows it."""
    generator = torch.Generator().manual_seed(seed)
    tiles = [{ONE_TILE: 1, THREE_IN_A_ROW: 3, TWO_BY_TWO: 4}[ratio] for ratio in ratios]
    pieces, starts = [], []
    for _ in ratios:
        pieces.append(torch.randint(4, VOCABULARY, (1, before), generator=generator))
        starts.append(sum(piece.shape[1] for piece in pieces))
        pieces.append(torch.tensor([[IMAGE_TOKEN]]))
    pieces.append(torch.randint(4, VOCABULARY, (1, 6), generator=generator))
    input_ids = torch.cat(pieces, dim=1)
    length = input_ids.shape[1]
    cross = torch.zeros(1, length, len(ratios), MAX_TILES, dtype=torch.long)
    used = torch.zeros(1, len(ratios), MAX_TILES, dtype=torch.long)
    for image, (start, count) in enumerate(zip(starts, tiles)):
        cross[:, start:, image, :count] = 1
        used[:, image, :count] = 1
    return {
        "input_ids": input_ids,
        "pixel_values": torch.randn(
            1, len(ratios), MAX_TILES, 3, TILE, TILE, generator=generator
        ),
        "aspect_ratio_ids": torch.tensor([list(ratios)]),
        "aspect_ratio_mask": used,
        "cross_attention_mask": cross,
    }


CASES = (
    # The encoder counts positions from the start, padding included.
    FamilyCase("florence2", build_florence2, florence2_inputs, can_be_padded=False),
    FamilyCase("mllama", build_mllama, mllama_inputs),
    FamilyCase(
        "mllama_cross_last",
        partial(build_mllama, cross_attention_layers=(1, 3)),
        mllama_inputs,
    ),
    FamilyCase(
        "mllama_two_images",
        build_mllama,
        partial(mllama_inputs, ratios=(TWO_BY_TWO, ONE_TILE)),
        can_be_padded=False,
    ),
)
