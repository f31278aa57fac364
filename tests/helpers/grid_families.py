"""Families with one grid per image: tiny models and real processors of each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
import transformers
from tests.families.cases import CASES
from tests.families.cases.patch_grid import FIRST_SPECIAL, MERGE, PATCH
from tests.helpers.blocks import silence_vision_attention
from tests.helpers.patch_grid_processors import (
    CHAT_TEMPLATE,
    SIZE,
    VISION_END,
    VISION_START,
    WithoutVideo,
)
from tests.helpers.processors import word_tokenizer
from tests.helpers.tiny_models import IMAGE_TOKEN
from torch import Tensor
from transformers import CONFIG_MAPPING

QWEN_IMAGES = "qwen2_vl.Qwen2VLImageProcessorPil"
GLM_IMAGES = "glm46v.Glm46VImageProcessorPil"
# Where frames are counted, areas are those of two.
TWO_FRAMES = {name: 2 * area for name, area in SIZE.items()}
VIDEO = f"word{FIRST_SPECIAL}"
ATTENTION = ("attn.proj",)
SELF_ATTENTION = ("self_attn.out_proj",)


@dataclass(frozen=True)
class GridFamily:
    """One model type.

    Attributes:
        processor: class of the processor
        images: module and class of the image processor
        settings: arguments of the image processor
        mixes: how the names of the vision tower's modules end whose outputs mix tokens
    """

    processor: str
    images: str
    settings: dict[str, Any]
    mixes: tuple[str, ...] = ATTENTION


def _qwen(processor: str, images: str = QWEN_IMAGES, **facts: Any) -> GridFamily:
    settings = {"patch_size": PATCH, "merge_size": MERGE, "size": SIZE}
    return GridFamily(processor, images, settings | facts.pop("settings", {}), **facts)


FAMILIES: dict[str, GridFamily] = {
    "qwen3_vl_moe": _qwen("Qwen3VLProcessor"),
    "qwen3_5_moe": _qwen("Qwen3VLProcessor"),
    "qwen4_exp": _qwen("Qwen3VLProcessor"),
    "cosmos3_omni": _qwen("Qwen3VLProcessor"),
    "cosmos3_edge": _qwen(
        "Cosmos3EdgeProcessor",
        "cosmos3_edge.Cosmos3EdgeImageProcessorPil",
        mixes=SELF_ATTENTION,
    ),
    "cohere_compass": _qwen(
        "CohereCompassProcessor", "cohere_compass.CohereCompassImageProcessorPil"
    ),
    "glm4v_moe": _qwen(
        "Glm4vProcessor",
        "glm4v.Glm4vImageProcessorPil",
        settings={"size": TWO_FRAMES},
    ),
    "glm_ocr": _qwen("Glm46VProcessor", GLM_IMAGES, settings={"size": TWO_FRAMES}),
    "glmga": _qwen(
        "Glm46VProcessor",
        "glmga.GlmgaImageProcessorPil",
        settings={"size": TWO_FRAMES},
    ),
    "ernie4_5_vl_moe": _qwen(
        "Ernie4_5_VLMoeProcessor", "ernie4_5_vl_moe.Ernie4_5_VLMoeImageProcessorPil"
    ),
    "paddleocr_vl": _qwen(
        "PaddleOCRVLProcessor",
        "paddleocr_vl.PaddleOCRVLImageProcessorPil",
        mixes=SELF_ATTENTION,
    ),
    "qwen2_5_omni_thinker": _qwen("Qwen2_5OmniProcessor"),
    "qwen3_omni_moe_thinker": _qwen("Qwen3OmniMoeProcessor"),
    "exaone4_5": _qwen("Exaone4_5_Processor"),
    "lfm3_vl": _qwen("Lfm3VlProcessor", mixes=("out_proj",)),
    "hyperclovax_vision_v2": _qwen("HyperCLOVAXVisionV2Processor"),
    "dots3_note": _qwen("Dots3NoteProcessor", settings={"temporal_patch_size": 1}),
    "minimax_m3_vl": _qwen(
        "MiniMaxM3VLProcessor",
        "minimax_m3_vl.MiniMaxM3VLImageProcessor",
        mixes=SELF_ATTENTION,
    ),
    "hunyuan_vl": _qwen(
        "HunYuanVLProcessor",
        "hunyuan_vl.HunYuanVLImageProcessorPil",
        mixes=("self_attn.o_proj",),
    ),
    "kimi_k25": GridFamily(
        "Kimi_K25Processor",
        "kimi_k25.Kimi_K25ImageProcessor",
        {
            "patch_size": PATCH,
            "max_patches": 150,
            "size": {"max_height": 16, "max_width": 16},
        },
    ),
    "muse_glimmer": GridFamily(
        "MuseGlimmerProcessor",
        "muse_glimmer.MuseGlimmerImageProcessor",
        {"patch_size": PATCH, "max_image_tokens": 30},
    ),
    "muse_spark": GridFamily(
        "MuseSparkProcessor",
        "muse_glimmer.MuseGlimmerImageProcessor",
        {"patch_size": PATCH, "max_image_tokens": 30},
    ),
    "nemotron_h_omni": GridFamily(
        "NemotronH_Omni_Reasoning_V3Processor",
        "nemotron_h_omni.NemotronH_Omni_Reasoning_V3ImageProcessor",
        {"patch_size": PATCH, "min_num_patches": 16, "max_num_patches": 150},
        mixes=("o_proj",),
    ),
    "gemma4_unified": GridFamily(
        "Gemma4UnifiedProcessor",
        "gemma4_unified.Gemma4UnifiedImageProcessor",
        {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        mixes=(),
    ),
}
KNOWN = tuple(name for name in FAMILIES if name in CONFIG_MAPPING)


CASE_OF = {case.name: case for case in CASES}


@lru_cache(maxsize=1)
def silent_model(family: str) -> Any:
    """A model whose vision tower mixes no tokens."""
    model = CASE_OF[family].model(0, "sdpa")
    for output in FAMILIES[family].mixes:
        silence_vision_attention(model, "vis", output)
    return model


def image_features(model: Any) -> Callable[[Any], Tensor]:
    """All features of each token that the text model gets, in any layer."""
    names = ("pixel_values", "image_grid_thw", "image_grid_hw", "image_position_ids")
    owner = model if hasattr(model, "get_image_features") else model.model

    def features(inputs: Any) -> Tensor:
        made = owner.get_image_features(
            **{name: inputs[name] for name in names if name in inputs}
        )
        every_layer = [made.pooler_output, *(made.get("deepstack_features") or ())]
        return torch.cat([_joined(layer) for layer in every_layer], dim=1)

    return features


def _joined(layer: Any) -> Tensor:
    joined: Tensor = torch.cat(tuple(layer)) if not isinstance(layer, Tensor) else layer
    return joined.flatten(0, -2)


# -- Processors


def needs_torchvision(family: str) -> bool:
    return not FAMILIES[family].images.endswith("Pil")


def grid_processor(family: str, **image_settings: Any) -> Any:
    """The processor of a family's tiny model; settings are the image processor's."""
    facts = FAMILIES[family]
    folder, name = facts.images.split(".")
    kind = "image_processing_pil" if name.endswith("Pil") else "image_processing"
    module = import_module(f"transformers.models.{folder}.{kind}_{folder}")
    images = getattr(module, name)(**{**facts.settings, **image_settings})
    tokenizer: Any = word_tokenizer()
    for number, token in enumerate(
        (
            "video_token",
            "vision_start_token vision_bos_token image_start_token boi_token",
            "vision_end_token vision_eos_token image_end_token eoi_token",
            "audio_token audio_bos_token audio_eos_token boa_token eoa_token",
            "video_start_token",
            "video_end_token",
        )
    ):
        for attribute in token.split():
            setattr(tokenizer, attribute, f"word{FIRST_SPECIAL + number}")
            setattr(tokenizer, f"{attribute}_id", FIRST_SPECIAL + number)
    base = getattr(transformers, facts.processor)
    arguments: dict[str, Any] = {"video_processor": None}
    if "Omni" in facts.processor or family in ("dots3_note", "muse_spark"):
        arguments["feature_extractor"] = None
    if family == "gemma4_unified":
        arguments["feature_extractor"] = None
    processor: Any = type(base.__name__, (WithoutVideo, base), {})(
        image_processor=images,
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        **arguments,
    )
    # Some processors know the names of their tokens themselves.
    processor.image_token, processor.image_token_id = "<image>", IMAGE_TOKEN
    processor.video_token, processor.video_token_id = VIDEO, FIRST_SPECIAL
    processor.image_start_token, processor.image_end_token = VISION_START, VISION_END
    if "Omni" in facts.processor:
        # Before transformers 5.23 they read its ``merge_size`` even without a video.
        processor.video_processor = images
    if family == "minimax_m3_vl":
        processor.IMAGE_TOKEN = "<image>"
        processor.VISION_START_TOKEN = VISION_START
        processor.VISION_END_TOKEN = VISION_END
    return processor
