"""Step 3.7: layers with a sliding window have more heads than the others."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY

PATCH = 8
# Two convolutions of stride two behind the vision tower: 2 x 2 tokens.
SIDE = 8 * PATCH
NUM_TOKENS = 4


def build(seed: int = 0, implementation: str = "sdpa") -> Any:
    from transformers import Step3p7Config, Step3p7ForConditionalGeneration

    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "mlp_ratio": 2.0,
        "max_position_embeddings": 64,
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "moe_intermediate_size": 32,
        "share_expert_dim": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_sliding_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 512,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "mlp_layer_types": ["dense", "sparse"] * 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = Step3p7ForConditionalGeneration(
            Step3p7Config(
                text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN
            )
        )
        roughen(model)
    model.set_attn_implementation(implementation)
    # The others have no kernel for the reference's float64.
    model.set_experts_implementation("eager")
    return model.eval()


def inputs(seed: int, before: int) -> dict[str, Any]:
    """Two windows of the image, and the whole image behind them."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(4, VOCABULARY, (1, before + 6), generator=generator)
    image = torch.full((1, 3 * NUM_TOKENS), IMAGE_TOKEN)
    return {
        "input_ids": torch.cat([text[:, :before], image, text[:, before:]], dim=1),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=generator),
        "pixel_values_local": torch.randn(2, 3, SIDE, SIDE, generator=generator),
        "num_local_patches": torch.tensor([2]),
    }


CASES = (
    FamilyCase(
        "step3p7",
        partial(build),
        partial(inputs),
        implementations=("sdpa",),
    ),
)
