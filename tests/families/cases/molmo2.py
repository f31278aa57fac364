"""Molmo 2: a coarse grid of 2 x 2 tokens, and a fine one of 2 x 3 from two crops."""

from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import roughen, VOCABULARY
from torch import nn, Tensor
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

PATCH = 8
# Patches along the side of a crop, of which one on either side is the next crop's.
SIDE = 4
# The ids of images are no words: the model's head does not know them.
MARKERS = (
    "<im_start>",
    "<low_res_im_start>",
    "<im_end>",
    "<im_col>",
    "<frame_start>",
    "<frame_end>",
    "<im_low>",
    "<im_patch>",
)
NUM_WORDS = VOCABULARY - len(MARKERS)
IDS = {name: NUM_WORDS + number for number, name in enumerate(MARKERS)}
# The patches of each token of both grids. Of the two crops, each with 16 patches behind
# those of the copy, the first ends before its last column, the second begins behind its
# first one.
FINE = [
    [16 + 16 * crop + SIDE * row + column for crop, column in columns]
    for row in range(SIDE)
    for columns in [[(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]]
]


def build(seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    width: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    config = Molmo2Config(
        vision_config={
            **width,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "image_size": [SIDE * PATCH, SIDE * PATCH],
            "patch_size": PATCH,
        },
        adapter_config={
            **width,
            "vision_feature_layer": [1, 0],
            "intermediate_size": 48,
            "text_hidden_size": 48,
        },
        text_config={
            "vocab_size": NUM_WORDS,
            "additional_vocab_size": len(MARKERS),
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        image_start_token_id=IDS["<im_start>"],
        low_res_image_start_token_id=IDS["<low_res_im_start>"],
        image_end_token_id=IDS["<im_end>"],
        image_patch_id=IDS["<im_patch>"],
        frame_start_token_id=IDS["<frame_start>"],
        frame_end_token_id=IDS["<frame_end>"],
    )
    with torch.random.fork_rng():
        # Under the next seeds, hardly any head supports the answer.
        torch.manual_seed(21 * seed)
        model: Any = Molmo2ForConditionalGeneration(config)
        roughen(model)
    model.set_attn_implementation(implementation)
    built: nn.Module = model.eval()
    return built


def pooled(patches: Tensor) -> Tensor:
    """The patches of each token, ``(tokens, 4)``, of a grid of patches."""
    squares = patches.unflatten(1, (-1, 2)).unflatten(0, (-1, 2))
    return squares.transpose(1, 2).reshape(-1, 4)


def inputs(seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, NUM_WORDS, (before + 6,), generator=generator).tolist()
    ids = words[:before]
    for start, columns in (("<low_res_im_start>", 2), ("<im_start>", 3)):
        row = [IDS["<im_patch>"]] * columns + [IDS["<im_col>"]]
        ids += [IDS[start], *row * 2, IDS["<im_end>"]]
    input_ids = torch.tensor([ids + words[before:]])
    coarse = torch.arange(SIDE**2).view(SIDE, SIDE)
    return {
        "input_ids": input_ids,
        "mm_token_type_ids": (input_ids >= NUM_WORDS).int(),
        "pixel_values": torch.randn(3, SIDE**2, 3 * PATCH**2, generator=generator),
        "image_token_pooling": torch.cat([pooled(coarse), pooled(torch.tensor(FINE))]),
        "image_grids": torch.tensor([[2, 2, 2, 3]]),
        "image_num_crops": torch.tensor([3]),
    }


CASES = (FamilyCase("molmo2", build, inputs, implementations=("sdpa",)),)
