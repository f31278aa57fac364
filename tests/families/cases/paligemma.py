"""PaliGemma; PaliGemma 2 with a window shorter than the prompt, and soft caps."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs, roughen, VOCABULARY
from torch import nn
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(version: int, seed: int, implementation: str, **text: Any) -> nn.Module:
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        vision_use_head=False,
    )
    if version == 1:
        text_config: Any = GemmaConfig(
            **{**SHARED, "num_hidden_layers": 3, "num_key_value_heads": 1, **text}
        )
    else:
        settings = {
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 1.5,
        }
        text_config = Gemma2Config(**{**SHARED, **settings, **text})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = PaliGemmaForConditionalGeneration(
            PaliGemmaConfig(
                vision_config=vision,
                text_config=text_config,
                image_token_index=IMAGE_TOKEN,
                projection_dim=48,
                hidden_size=48,
            )
        )
        roughen(model)
    model.set_attn_implementation(implementation)
    return model.eval()


def inputs(seed: int, before: int) -> dict[str, Any]:
    made: dict[str, Any] = dict(prompt_inputs(seed, before=before))
    made["token_type_ids"] = torch.zeros_like(made["input_ids"])
    return made


CASES = (
    FamilyCase("paligemma", partial(build, 1), inputs),
    # SDPA has no soft cap of the attention's logits.
    FamilyCase("paligemma2", partial(build, 2), inputs, implementations=("eager",)),
)
