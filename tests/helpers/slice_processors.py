"""Real processors of MiniCPM-V and MiniCPM-OCR, for their tiny models."""

from typing import Any
from unittest import mock

import pytest
import transformers
from tests.families.cases import minicpm
from tests.helpers.tile_processors import chat_template, tokenizer
from transformers import ProcessorMixin
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import (
    MiniCPMV4_6ImageProcessorPil,
)


def minicpm_processor(variant: str = "minicpmv4_6", **settings: Any) -> Any:
    """The processor of a tiny model, which cuts images of more than 32 x 32 pixels.

    Args:
        variant: a variant of ``minicpm.CLASSES``
        settings: arguments of the image processor
    """
    settings = {
        "patch_size": minicpm.PATCH,
        "scale_resolution": 32,
        "downsample_mode": "4x" if minicpm.MERGE[variant] == 2 else "16x",
        **settings,
    }
    image_class: Any = MiniCPMV4_6ImageProcessorPil
    if variant == "minicpm_ocr":
        pytest.importorskip("torchvision", reason="the image processor needs it")
        image_class = transformers.MiniCPMOcrImageProcessor
    image_processor = image_class(**settings)
    named = {"image_token": "<image>", **minicpm.MARKERS}
    # The video processor, which needs torchvision, is only asked for two settings that
    # the image processor has too.
    with mock.patch.object(
        ProcessorMixin, "check_argument_for_proper_class", lambda *_: object
    ):
        kind = getattr(transformers, f"{minicpm.CLASSES[variant]}Processor")
        made: Any = kind(
            image_processor,
            image_processor,
            tokenizer("<image>", tuple(minicpm.MARKERS.values()), named),
            chat_template=chat_template("<image>"),
        )
    return made
