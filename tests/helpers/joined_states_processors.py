"""Real processors of Gemma 3n, GLM-5 Next, Inkling and Inkling 2."""

from typing import Any

import pytest
from tests.families.cases.joined_states import MERGE, PATCH, SIDE
from tests.helpers.patch_grid_processors import WithoutVideo
from tests.helpers.processors import CHAT_TEMPLATE, word_tokenizer
from transformers import Gemma3nProcessor, Glm5NextProcessor, InklingProcessor
from transformers.models.siglip.image_processing_pil_siglip import (
    SiglipImageProcessorPil,
)

SQUARE = {"height": PATCH, "width": PATCH}


class _WithoutAudio:
    """Takes None for the feature extractor."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> type:
        return type(argument)


def gemma3n_processor(**settings: Any) -> Any:
    tokenizer: Any = word_tokenizer()
    for name in ("audio", "boi", "eoi", "boa", "eoa"):
        setattr(tokenizer, f"{name}_token", f"word{90 + len(name)}")
    tokenizer.audio_token_id = 98
    named = type("Gemma3nProcessor", (_WithoutAudio, Gemma3nProcessor), {})
    processor: Any = named(
        feature_extractor=None,
        image_processor=SiglipImageProcessorPil(
            size={"height": 32, "width": 32}, **settings
        ),
        tokenizer=tokenizer,
        image_seq_length=SIDE**2,
        chat_template=CHAT_TEMPLATE,
    )
    return processor


def glm5_next_processor(**settings: Any) -> Any:
    pytest.importorskip("torchvision", reason="the image processor needs torchvision")
    from transformers.models.glm5_next.image_processing_glm5_next import (
        Glm5NextImageProcessor,
    )

    tokenizer: Any = word_tokenizer()
    tokenizer.video_token = "word98"
    named = type("Glm5NextProcessor", (WithoutVideo, Glm5NextProcessor), {})
    processor: Any = named(
        image_processor=Glm5NextImageProcessor(
            **{
                "patch_size": PATCH,
                "merge_size": MERGE,
                "min_image_tokens": 4,
                "max_image_tokens": 24,
                **settings,
            }
        ),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=CHAT_TEMPLATE,
    )
    return processor


def inkling_processor(**settings: Any) -> Any:
    pytest.importorskip("torchvision", reason="the image processor needs torchvision")
    from transformers.models.inkling.image_processing_inkling import (
        InklingImageProcessor,
    )

    named = type("InklingProcessor", (_WithoutAudio, InklingProcessor), {})
    processor: Any = named(
        feature_extractor=None,
        image_processor=InklingImageProcessor(size=SQUARE, **settings),
        tokenizer=word_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )
    return processor


def inkling2_processor(**settings: Any) -> Any:
    pytest.importorskip("torchvision", reason="the image processor needs torchvision")
    from transformers import Inkling2Processor
    from transformers.models.inkling2.image_processing_inkling2 import (
        Inkling2ImageProcessor,
    )

    processor: Any = Inkling2Processor(
        image_processor=Inkling2ImageProcessor(size=SQUARE, **settings),
        tokenizer=word_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )
    return processor


PROCESSORS = {
    "gemma3n": gemma3n_processor,
    "glm5_next": glm5_next_processor,
    "inkling_mm_model": inkling_processor,
    "inkling2": inkling2_processor,
}
