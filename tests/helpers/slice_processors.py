"""Real processors of families with slices, two grids or line breaks, built offline."""

from typing import Any
from unittest import mock

import pytest
import transformers
from tests.families.cases import (
    granite4_vision,
    minicpm,
    molmo2,
    tiled_canvas,
    unlimited_ocr,
)
from tests.helpers.tile_processors import chat_template, SQUARE, tokenizer
from transformers import Emu3Processor, Granite4VisionProcessor, ProcessorMixin
from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import (
    MiniCPMV4_6ImageProcessorPil,
)

NEEDS_TORCHVISION = "the image processor needs torchvision"


def with_any_parts(make: Any, *parts: Any, **settings: Any) -> Any:
    """A processor whose parts are not checked: video processors need torchvision."""
    with mock.patch.object(
        ProcessorMixin, "check_argument_for_proper_class", lambda *_: object
    ):
        return make(*parts, **settings)


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
        pytest.importorskip("torchvision", reason=NEEDS_TORCHVISION)
        image_class = transformers.MiniCPMOcrImageProcessor
    image_processor = image_class(**settings)
    named = {"image_token": "<image>", **minicpm.MARKERS}
    # The video processor is only asked for settings that an image processor has too.
    return with_any_parts(
        getattr(transformers, f"{minicpm.CLASSES[variant]}Processor"),
        image_processor,
        image_processor,
        tokenizer("<image>", tuple(minicpm.MARKERS.values()), named),
        chat_template=chat_template("<image>"),
    )


def granite_docling_processor(**settings: Any) -> Any:
    """Its classes are not in transformers before 5.23."""
    from transformers.models.granite_docling.image_processing_pil_granite_docling import (  # noqa: E501
        GraniteDoclingImageProcessorPil,
    )

    marks = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    marks += ["<fake_token_around_image>", "<global-img>"]
    return transformers.GraniteDoclingProcessor(
        GraniteDoclingImageProcessorPil(
            **{"size": SQUARE, "max_patches": 6, **settings}
        ),
        tokenizer("<image>", tuple(marks), {"image_token": "<image>"}),
        image_seq_len=4,
        chat_template=chat_template("<image>"),
    )


def granite4_vision_processor(rate: str = "1/2") -> Any:
    return Granite4VisionProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": tiled_canvas.TILE},
            crop_size=SQUARE,
            image_grid_pinpoints=tiled_canvas.PINPOINTS,
        ),
        tokenizer(),
        patch_size=granite4_vision.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        downsample_rate=rate,
        chat_template=chat_template("<image>"),
    )


def molmo2_processor(**settings: Any) -> Any:
    pytest.importorskip("torchvision", reason=NEEDS_TORCHVISION)
    side = molmo2.SIDE * molmo2.PATCH
    image_processor = transformers.Molmo2ImageProcessor(
        **{
            "size": {"height": side, "width": side},
            "max_crops": 6,
            "overlap_margins": [1, 1],
            "patch_size": molmo2.PATCH,
            **settings,
        }
    )
    return with_any_parts(
        transformers.Molmo2Processor,
        image_processor,
        None,
        tokenizer("<|image|>", molmo2.MARKERS, {"image_token": "<|image|>"}),
        chat_template=chat_template("<|image|>"),
    )


def emu3_processor() -> Any:
    special = {
        "boi_token": "<boi>",
        "eoi_token": "<eoi>",
        "image_wrapper_token": "<img>",
        "eof_token": "<eof>",
    }
    return Emu3Processor(
        Emu3ImageProcessor(min_pixels=24 * 24, max_pixels=64 * 64),
        tokenizer(
            "<image>", tuple(special.values()), {"image_token": "<image>", **special}
        ),
        chat_template=chat_template("<image>"),
    )


def unlimited_ocr_processor(**settings: Any) -> Any:
    pytest.importorskip("torchvision", reason=NEEDS_TORCHVISION)
    side = unlimited_ocr.COPY
    image_processor = transformers.UnlimitedOcrImageProcessor(
        **{
            "size": {"height": side, "width": side},
            "tile_size": unlimited_ocr.TILE,
            "max_patches": 6,
            **settings,
        }
    )
    return transformers.UnlimitedOcrProcessor(
        image_processor,
        tokenizer("<image>", (), {"image_token": "<image>"}),
        patch_size=unlimited_ocr.PATCH,
        downsample_ratio=unlimited_ocr.MERGE,
        chat_template=chat_template("<image>"),
    )
