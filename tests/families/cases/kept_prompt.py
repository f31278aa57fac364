"""Unlimited-OCR: its layers keep the whole prompt and a window of the answer."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY

SIDE = 128
# Answers of the tests are longer.
WINDOW = 3
# Two rows of two tokens, each with a newline, and a separator.
NUM_IMAGE_TOKENS = 2 * (2 + 1) + 1


def build(seed: int = 0, implementation: str = "sdpa") -> Any:
    from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

    sam = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
        "downsample_channels": [24, 32],
        # The default's features are all but the same for every image.
        "initializer_range": 0.02,
    }
    encoder = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 512,
        "sliding_window": WINDOW,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng():
        # With these weights the image raises some tokens more than the text does.
        torch.manual_seed(seed + 10)
        model: Any = UnlimitedOcrForConditionalGeneration(
            UnlimitedOcrConfig(
                text_config=text,
                vision_config={"sam_config": sam, "encoder_config": encoder},
                image_token_id=IMAGE_TOKEN,
            )
        )
        roughen(model)
        # An image token in an answer can't be told from one of the prompt.
        model.lm_head.weight.data[IMAGE_TOKEN] = 0.0
    model.set_attn_implementation(implementation)
    # The others have no kernel for the reference's float64.
    model.set_experts_implementation("eager")
    return model.eval()


def inputs(seed: int, before: int) -> dict[str, Any]:
    """The small copy of an image, without tiles."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(4, VOCABULARY, (1, before + 6), generator=generator)
    image = torch.full((1, NUM_IMAGE_TOKENS), IMAGE_TOKEN)
    return {
        "input_ids": torch.cat([text[:, :before], image, text[:, before:]], dim=1),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=generator),
        "num_local_patches": torch.tensor([0]),
        "patches_grid": torch.tensor([[1, 1]]),
    }


CASES = (
    FamilyCase(
        "unlimited_ocr",
        partial(build),
        partial(inputs),
        implementations=("sdpa",),
    ),
)
