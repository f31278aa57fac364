"""Families whose image tokens are queries, each of which reads the whole image."""

from functools import partial
from typing import Any

import torch
from tests.families.cases.cross_attention import finished
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from torch import nn
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    Kosmos2_5Config,
    Kosmos2_5ForConditionalGeneration,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
)

NUM_QUERIES = 6
MAX_PATCHES, PATCH = 24, 8
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = {**SMALL, "image_size": 32, "patch_size": 8, "initializer_range": 0.1}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {**SMALL, **SPECIAL, "vocab_size": VOCABULARY, "max_position_embeddings": 256}
# With as many layers in the encoder as in the decoder: the cache counts the former.
T5 = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
QFORMER = {**SMALL, "vocab_size": VOCABULARY, "encoder_hidden_size": 32}


def built(make: Any, seed: int, implementation: str) -> nn.Module:
    """A model whose queries differ: they start all alike, from zeros or ones."""
    model = finished(make, seed, implementation)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not parameter.std():
                parameter.normal_()
    return model


def idefics2(seed: int, implementation: str) -> nn.Module:
    perceiver = {
        "hidden_size": 32,
        "resampler_n_latents": NUM_QUERIES,
        "resampler_depth": 2,
        "resampler_n_heads": 2,
        "resampler_head_dim": 16,
        "num_key_value_heads": 1,
    }
    config = Idefics2Config(
        vision_config=VISION,
        perceiver_config=perceiver,
        text_config={**TEXT, "model_type": "mistral", "num_key_value_heads": 2},
        image_token_id=IMAGE_TOKEN,
    )
    make = partial(Idefics2ForConditionalGeneration, config)
    return built(make, seed, implementation)


def aria(seed: int, implementation: str, patch: int = 8, side: int = 32) -> nn.Module:
    config = AriaConfig(
        vision_config={
            **VISION,
            "model_type": "idefics3_vision",
            "patch_size": patch,
            "image_size": side,
        },
        text_config={
            **TEXT,
            "intermediate_size": 24,
            # Of fewer heads all may be outweighed by text.
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "moe_num_experts": 4,
            "moe_topk": 2,
            "moe_num_shared_experts": 1,
        },
        image_token_index=IMAGE_TOKEN,
        projector_patch_to_query_dict={(side // patch) ** 2: NUM_QUERIES},
    )
    make = partial(AriaForConditionalGeneration, config)
    model: Any = built(make, seed, implementation)
    # Those of the other implementation have no float64, in which the reference runs.
    model.set_experts_implementation("eager")
    return model


OPT = {
    **TEXT,
    "model_type": "opt",
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
}
LLAMA = {**TEXT, "model_type": "llama", "num_key_value_heads": 2}


def blip2(
    seed: int, implementation: str, text_config: dict[str, Any] = OPT
) -> nn.Module:
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=text_config,
        num_query_tokens=NUM_QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    make = partial(Blip2ForConditionalGeneration, config)
    return built(make, seed, implementation)


def instructblip(
    seed: int, implementation: str, text_config: dict[str, Any] = LLAMA
) -> nn.Module:
    config = InstructBlipConfig(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=text_config,
        num_query_tokens=NUM_QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    make = partial(InstructBlipForConditionalGeneration, config)
    return built(make, seed, implementation)


def kosmos2(
    seed: int,
    implementation: str,
    num_queries: int = NUM_QUERIES,
    vocabulary: int = VOCABULARY,
) -> nn.Module:
    text = {
        **SPECIAL,
        "vocab_size": vocabulary,
        "embed_dim": 32,
        "layers": 3,
        "ffn_dim": 48,
        "attention_heads": 4,
    }
    config = Kosmos2Config(
        text_config=text, vision_config=VISION, latent_query_num=num_queries
    )
    make = partial(Kosmos2ForConditionalGeneration, config)
    return built(make, seed, implementation)


def kosmos2_5(seed: int, implementation: str) -> nn.Module:
    text = {
        **SPECIAL,
        "vocab_size": VOCABULARY,
        "embed_dim": 32,
        "layers": 3,
        "ffn_dim": 48,
        "attention_heads": 4,
    }
    vision = {
        **SMALL,
        "head_dim": 16,
        "max_num_patches": 64,
        "patch_embed_hidden_size": 3 * PATCH**2,
        "patch_size": PATCH,
    }
    config = Kosmos2_5Config(
        text_config=text, vision_config=vision, latent_query_num=NUM_QUERIES
    )
    make = partial(Kosmos2_5ForConditionalGeneration, config)
    return built(make, seed, implementation)


def ids_of(seed: int, before: int, pictures: int = 1) -> torch.Tensor:
    """A prompt with the queries of every picture, and a token between two pictures."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(4, VOCABULARY, (before + pictures + 4,), generator=generator)
    image = torch.full((NUM_QUERIES,), IMAGE_TOKEN)
    parts = [text[:before]]
    for mark in text[before : before + pictures]:
        parts += [mark[None], image]
    return torch.cat([*parts, text[before + pictures :]])[None]


def pixels_of(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(*shape, 3, 32, 32, generator=generator)


def idefics2_inputs(seed: int, before: int) -> dict[str, Any]:
    """Two images, the second of which is padded."""
    mask = torch.ones(1, 2, 32, 32, dtype=torch.long)
    mask[:, 1, 24:] = 0
    return {
        "input_ids": ids_of(seed, before, 2),
        "pixel_values": pixels_of(seed, 1, 2),
        "pixel_attention_mask": mask,
    }


def aria_inputs(seed: int, before: int) -> dict[str, Any]:
    return {
        "input_ids": ids_of(seed, before),
        "pixel_values": pixels_of(seed, 1),
        "pixel_mask": torch.ones(1, 32, 32, dtype=torch.bool),
    }


def blip2_inputs(seed: int, before: int) -> dict[str, Any]:
    return {"input_ids": ids_of(seed, before), "pixel_values": pixels_of(seed, 1)}


def instructblip_inputs(seed: int, before: int) -> dict[str, Any]:
    instruction = torch.tensor([[5, 6, 7]]) + seed
    return {**blip2_inputs(seed, before), "qformer_input_ids": instruction}


def kosmos2_inputs(seed: int, before: int) -> dict[str, Any]:
    inputs = blip2_inputs(seed, before)
    is_image = inputs["input_ids"] == IMAGE_TOKEN
    return {**inputs, "image_embeds_position_mask": is_image.long()}


def kosmos2_5_inputs(seed: int, before: int) -> dict[str, Any]:
    """A page of 4 x 5 patches; the rest is unused."""
    inputs = kosmos2_inputs(seed, before)
    patches = torch.nn.functional.pad(inputs.pop("pixel_values"), (0, PATCH))
    rows = torch.nn.functional.unfold(patches, PATCH, stride=PATCH)[0].T
    places = torch.cartesian_prod(torch.arange(1, 5), torch.arange(1, 6)).float()
    flat = torch.zeros(1, MAX_PATCHES, 2 + rows.shape[1])
    flat[0, : len(rows)] = torch.cat([places, rows], dim=1)
    return {**inputs, "flattened_patches": flat}


CASES = (
    FamilyCase("idefics2", idefics2, idefics2_inputs, places="resampler"),
    FamilyCase(
        "aria", aria, aria_inputs, implementations=("sdpa",), places="resampler"
    ),
    FamilyCase(
        "blip2", blip2, blip2_inputs, implementations=("sdpa",), places="resampler"
    ),
    FamilyCase(
        "instructblip",
        instructblip,
        instructblip_inputs,
        implementations=("sdpa",),
        places="resampler",
    ),
    FamilyCase(
        "kosmos-2",
        kosmos2,
        kosmos2_inputs,
        implementations=("sdpa",),
        can_be_padded=False,
        places="resampler",
    ),
    FamilyCase(
        "kosmos2_5",
        kosmos2_5,
        kosmos2_5_inputs,
        implementations=("sdpa",),
        can_be_padded=False,
        places="resampler",
    ),
    FamilyCase(
        "blip2_t5",
        partial(blip2, text_config=T5),
        blip2_inputs,
        implementations=("sdpa", "eager"),
        places="resampler",
    ),
    FamilyCase(
        "instructblip_t5",
        partial(instructblip, text_config=T5),
        instructblip_inputs,
        tolerance=5e-5,
        implementations=("sdpa",),
        places="resampler",
    ),
)
