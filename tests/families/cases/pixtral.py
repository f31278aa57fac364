"""Pixtral, as a LLaVA with its vision tower, Mistral 3 and LightOnOCR."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen3Config,
)

PATCH = 8
IMAGE_BREAK = VOCABULARY - 2
IMAGE_END = VOCABULARY - 1
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
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
}
VARIANTS = ("pixtral", "mistral3", "mistral3_sliding", "lighton_ocr")
# Patches along a token's side.
MERGE = {"pixtral": 1, "mistral3": 2, "mistral3_sliding": 2, "lighton_ocr": 2}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> Any:
    vision = PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=256,
        patch_size=PATCH,
    )
    window = 16 if variant == "mistral3_sliding" else None
    text = MistralConfig(**TEXT, sliding_window=window)
    shared: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": IMAGE_TOKEN,
        "vision_feature_layer": -1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if variant == "pixtral":
            model: nn.Module = LlavaForConditionalGeneration(
                LlavaConfig(**shared, vision_feature_select_strategy="full")
            )
        elif variant == "lighton_ocr":
            model = LightOnOcrForConditionalGeneration(
                LightOnOcrConfig(
                    vision_config=vision,
                    text_config=Qwen3Config(**TEXT),
                    image_token_id=IMAGE_TOKEN,
                    spatial_merge_size=MERGE[variant],
                )
            )
        else:
            model = Mistral3ForConditionalGeneration(
                Mistral3Config(
                    **shared,
                    spatial_merge_size=MERGE[variant],
                    tie_word_embeddings=False,
                )
            )
        roughen(model)
    tuned: Any = model
    if variant == "pixtral":
        # Without the norm that Mistral 3 has here, image features would be tiny.
        tuned.model.multi_modal_projector.linear_2.weight.data.mul_(8.0)
    tuned.set_attn_implementation(implementation)
    return tuned.eval()


def image_ids(variant: str, rows: int, columns: int) -> list[int]:
    """The tokens of one image: its rows, each with one more token at its end, except
    for LightOnOCR."""
    if variant == "lighton_ocr":
        return [IMAGE_TOKEN] * (rows * columns)
    row = [IMAGE_TOKEN] * columns
    return [*([*row, IMAGE_BREAK] * (rows - 1)), *row, IMAGE_END]


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    """One image, wide or tall depending on the seed, on a larger canvas."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (4, 5) if seed % 2 == 0 else (5, 4)
    side = PATCH * MERGE[variant]
    text = torch.randint(4, IMAGE_BREAK, (before + 6,), generator=generator).tolist()
    ids = [*text[:before], *image_ids(variant, rows, columns), *text[before:]]
    return {
        "input_ids": torch.tensor([ids]),
        "pixel_values": torch.randn(1, 3, 5 * side, 5 * side, generator=generator),
        "image_sizes": torch.tensor([[rows * side, columns * side]]),
    }


CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        partial(inputs, variant),
        implementations=("sdpa",) if variant == "lighton_ocr" else ("sdpa", "eager"),
    )
    for variant in VARIANTS
)
