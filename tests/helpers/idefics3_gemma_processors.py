"""Real processors of Idefics3, SmolVLM, Gemma 3 and Gemma 4, built offline.

Their ids are those of the tiny models. Without torchvision the classes of video
processors are not there, so that stand-ins fill their places; no video is given.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import transformers
from tests.families.cases.gemma import BEGIN_OF_IMAGE, END_OF_IMAGE, PATCH, POOLED
from tests.helpers.processors import WORDS
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from tokenizers import AddedToken, models, pre_tokenizers, processors, Tokenizer
from transformers import (
    Gemma3Processor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    SmolVLMProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import (
    Gemma3ImageProcessorPil,
)
from transformers.models.gemma4.image_processing_pil_gemma4 import (
    Gemma4ImageProcessorPil,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
)
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.image_processing_pil_smolvlm import (
    SmolVLMImageProcessorPil,
)
from transformers.processing_utils import ProcessorMixin

TILE = 32
TILE_MARKS = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]


def special_tokenizer(
    marks: Mapping[str, int], **named: str
) -> PreTrainedTokenizerFast:
    """A word is a token; special tokens have given ids.

    Args:
        marks: ids of special tokens
        **named: which token is the ``image_token``, the ``boi_token`` ...
    """
    known = ["<pad>", "<s>", "</s>", "<image>", "<unk>", *WORDS.split()]
    known += [f"word{index}" for index in range(len(known), VOCABULARY)]
    for mark, index in marks.items():
        known[index] = mark
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    special = [AddedToken(mark, special=True, normalized=False) for mark in marks]
    wrapped.add_tokens(special, special_tokens=True)
    assert len(wrapped) == VOCABULARY
    return wrapped


def template_with(placeholder: str) -> str:
    """A chat template that writes a placeholder for an image."""
    return (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + placeholder + "{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def idefics_processor(variant: str = "idefics3", **image_settings: Any) -> Any:
    """Tiles of 32 x 32 pixels, 2 x 2 tokens each, up to four along a side."""
    marks = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    ids = {mark: 40 + index for index, mark in enumerate([*TILE_MARKS, *marks])}
    tokenizer = special_tokenizer(ids | {"<image>": IMAGE_TOKEN}, image_token="<image>")
    settings = {
        "size": {"longest_edge": 4 * TILE},
        "max_image_size": {"longest_edge": TILE},
        **image_settings,
    }
    template = template_with("<image>")
    if variant == "idefics3":
        return Idefics3Processor(
            Idefics3ImageProcessorPil(**settings),
            tokenizer,
            image_seq_len=4,
            chat_template=template,
        )
    with (
        without_class_checks(),
        mock.patch.object(
            processing_smolvlm, "num2words", lambda *args, **kwargs: "one"
        ),
    ):
        return SmolVLMProcessor(
            SmolVLMImageProcessorPil(**settings),
            tokenizer,
            SimpleNamespace(num_frames=1, fps=1),
            image_seq_len=4,
            chat_template=template,
        )


def gemma3_processor(pan_and_scan: bool = False) -> Any:
    """Pictures of 32 x 32 pixels, 4 x 4 tokens each."""
    tokenizer = special_tokenizer(
        {"<boi>": BEGIN_OF_IMAGE, "<eoi>": END_OF_IMAGE, "<image>": IMAGE_TOKEN},
        image_token="<image>",
        boi_token="<boi>",
        eoi_token="<eoi>",
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": TILE, "width": TILE}),
        tokenizer,
        chat_template=template_with("<boi>"),
        image_seq_length=16,
    )
    if pan_and_scan:
        if not hasattr(processor, "images_kwargs"):
            version = transformers.__version__
            pytest.skip(f"transformers {version}: processors have no such setting")
        processor.images_kwargs = {
            **processor.images_kwargs,
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 8,
        }
    return processor


def gemma4_processor() -> Any:
    """Up to 70 tokens of 8 x 8 pixels."""
    try:
        from transformers import Gemma4Processor
    except ImportError:
        version = transformers.__version__
        pytest.skip(f"Gemma4Processor of transformers {version} needs torchvision")
    tokenizer = special_tokenizer(
        {
            "<boi>": BEGIN_OF_IMAGE,
            "<eoi>": END_OF_IMAGE,
            "<image>": IMAGE_TOKEN,
            "<|video|>": 97,
            "<audio>": 98,
            "<boa>": 94,
            "<eoa>": 93,
        },
        image_token="<image>",
        boi_token="<boi>",
        eoi_token="<eoi>",
        audio_token="<audio>",
        boa_token="<boa>",
        eoa_token="<eoa>",
    )
    with without_class_checks():
        return Gemma4Processor(
            SimpleNamespace(),
            Gemma4ImageProcessorPil(
                patch_size=PATCH, pooling_kernel_size=POOLED, max_soft_tokens=70
            ),
            tokenizer,
            SimpleNamespace(),
            chat_template=template_with("<image>"),
        )


def without_class_checks() -> Any:
    """Allows a processor to be built from stand-ins."""
    return mock.patch.object(
        ProcessorMixin,
        "check_argument_for_proper_class",
        lambda self, name, argument: type(argument),
    )
