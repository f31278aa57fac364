"""Real processors of families with one square picture per image."""

from collections.abc import Callable
from typing import Any

from tests.families.cases.gemma import BEGIN_OF_IMAGE, END_OF_IMAGE
from tests.families.cases.squares import HIGH_SIDE, PATCH, SIDE
from tests.helpers.idefics3_gemma_processors import (
    special_tokenizer,
    template_with,
    without_class_checks,
)
from tests.helpers.tile_processors import chat_template, tokenizer
from tests.helpers.tiny_models import IMAGE_TOKEN, NUM_IMAGE_TOKENS
from transformers import (
    DeepseekVLHybridProcessor,
    DeepseekVLProcessor,
    JanusProcessor,
    LlavaProcessor,
    ShieldGemma2Processor,
    VideoLlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
    DeepseekVLImageProcessorPil,
)
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (  # noqa: E501
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import (
    Gemma3ImageProcessorPil,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.video_llava.image_processing_video_llava import (
    VideoLlavaImageProcessor,
)

SQUARE = {"height": SIDE, "width": SIDE}
HIGH_SQUARE = {"height": HIGH_SIDE, "width": HIGH_SIDE}
# The shortest side of a resized image: not less than a patch, as in the checkpoints.
LEAST = 5


def video_llava_processor(**settings: Any) -> Any:
    with without_class_checks():
        return VideoLlavaProcessor(
            VideoLlavaImageProcessor(
                **{"size": {"shortest_edge": SIDE}, "crop_size": SQUARE, **settings}
            ),
            None,
            tokenizer("<image>", ("<video>",)),
            patch_size=PATCH,
            chat_template=chat_template("<image>"),
        )


def fast_vlm_processor(**settings: Any) -> Any:
    """LLaVA's, without a class token."""
    return LlavaProcessor(
        CLIPImageProcessorPil(
            **{"size": {"shortest_edge": SIDE}, "crop_size": SQUARE, **settings}
        ),
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=chat_template("<image>"),
    )


def deepseek_vl_processor(**settings: Any) -> Any:
    return DeepseekVLProcessor(
        DeepseekVLImageProcessorPil(**{"size": SQUARE, "min_size": LEAST, **settings}),
        tokenizer(named={"image_token": "<image>"}),
        num_image_tokens=NUM_IMAGE_TOKENS,
        chat_template=chat_template("<image>"),
    )


def deepseek_vl_hybrid_processor(**settings: Any) -> Any:
    return DeepseekVLHybridProcessor(
        DeepseekVLHybridImageProcessorPil(
            **{
                "size": SQUARE,
                "high_res_size": HIGH_SQUARE,
                "min_size": LEAST,
                **settings,
            }
        ),
        tokenizer(named={"image_token": "<image>"}),
        num_image_tokens=NUM_IMAGE_TOKENS,
        chat_template=chat_template("<image>"),
    )


def janus_processor(**settings: Any) -> Any:
    named = {"boi_token": "<boi>", "eoi_token": "<eoi>"}
    return JanusProcessor(
        JanusImageProcessorPil(**{"size": SQUARE, "min_size": LEAST, **settings}),
        tokenizer(
            "<image>", tuple(named.values()), {"image_token": "<image>", **named}
        ),
        num_image_tokens=NUM_IMAGE_TOKENS,
        chat_template=chat_template("<image>"),
    )


def shieldgemma2_processor(**settings: Any) -> Any:
    marks = {"<boi>": BEGIN_OF_IMAGE, "<eoi>": END_OF_IMAGE, "<image>": IMAGE_TOKEN}
    named = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    return ShieldGemma2Processor(
        Gemma3ImageProcessorPil(**{"size": SQUARE, **settings}),
        special_tokenizer(marks, **named),
        chat_template=template_with("<boi>"),
        image_seq_length=NUM_IMAGE_TOKENS,
    )


PROCESSORS: dict[str, Callable[..., Any]] = {
    "video_llava": video_llava_processor,
    "fast_vlm": fast_vlm_processor,
    "deepseek_vl": deepseek_vl_processor,
    "deepseek_vl_hybrid": deepseek_vl_hybrid_processor,
    "janus": janus_processor,
    "shieldgemma2": shieldgemma2_processor,
}
