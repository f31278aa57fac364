"""Real processors of families that cut images into tiles, for their tiny models."""

from typing import Any
from unittest import mock

import pytest
import transformers
from tests.families.cases import tiled_canvas, tiles
from tests.helpers.processors import WORDS
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from tokenizers import models, pre_tokenizers, Tokenizer
from transformers import (
    AyaVisionProcessor,
    Cohere2VisionProcessor,
    GotOcr2Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaNextVideoProcessor,
    LlavaOnevisionProcessor,
    Ovis2Processor,
    PPChart2TableProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    QianfanOCRProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
)
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil,
)
from transformers.models.pp_chart2table.image_processing_pil_pp_chart2table import (
    PPChart2TableImageProcessorPil,
)

SQUARE = {"height": tiles.TILE, "width": tiles.TILE}
OCR_SQUARE = {"height": tiles.OCR_TILE, "width": tiles.OCR_TILE}
OVIS2_INDICATORS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


def chat_template(placeholder: str) -> str:
    """A chat template for one user turn, images before the question."""
    return (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + placeholder + "\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def tokenizer(
    image_token: str = "<image>",
    last: tuple[str, ...] = (),
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A word is a token, and every id of the tiny models is a word.

    Args:
        image_token: whose id is the tiny models' image token
        last: special tokens with the last ids of the vocabulary
        named: special tokens as the processor asks for them, by their names
    """
    words = ["<pad>", "<s>", "</s>", image_token, "<unk>", *WORDS.split()]
    words += [f"word{index}" for index in range(len(words), VOCABULARY - len(last))]
    words += last
    made = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named or {},
    )
    wrapped.add_tokens([image_token, *last], special_tokens=True)
    assert wrapped.convert_tokens_to_ids(image_token) == IMAGE_TOKEN
    assert len(wrapped) == VOCABULARY
    return wrapped


def without_video(make: Any, *parts: Any, **settings: Any) -> Any:
    """A processor without its video processor, which needs torchvision."""
    with mock.patch.object(
        ProcessorMixin, "check_argument_for_proper_class", lambda *_: object
    ):
        return make(*parts, None, **settings)


def llava_next_processor(
    tile: int = tiled_canvas.TILE, patch: int = tiled_canvas.PATCH
) -> Any:
    square = {"height": tile, "width": tile}
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": tile},
            crop_size=square,
            image_grid_pinpoints=tiled_canvas.PINPOINTS,
        ),
        tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
    )


def llava_next_video_processor() -> Any:
    """For images; its video processor is not there."""
    of_images = llava_next_processor()
    with mock.patch.object(
        ProcessorMixin, "check_argument_for_proper_class", lambda *_: object
    ):
        return LlavaNextVideoProcessor(
            None,
            of_images.image_processor,
            tokenizer("<image>", ("<video>",)),
            patch_size=tiled_canvas.PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template("<image>"),
        )


def llava_onevision_processor(aspect_ratio: str = "anyres_max_9") -> Any:
    return without_video(
        LlavaOnevisionProcessor,
        LlavaOnevisionImageProcessorPil(
            size=SQUARE, image_grid_pinpoints=tiled_canvas.PINPOINTS
        ),
        tokenizer(),
        num_image_tokens=(tiled_canvas.TILE // tiled_canvas.PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=aspect_ratio,
        chat_template=chat_template("<image>"),
    )


def internvl_processor(**settings: Any) -> Any:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    return without_video(
        InternVLProcessor,
        GotOcr2ImageProcessorPil(size=SQUARE, **settings),
        tokenizer("<IMG_CONTEXT>", ("<img>", "</img>", "<video>"), named),
        image_seq_length=tiles.TOKENS_OF_TILE,
        chat_template=chat_template("<IMG_CONTEXT>"),
    )


def qianfan_ocr_processor(**settings: Any) -> Any:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    return QianfanOCRProcessor(
        GotOcr2ImageProcessorPil(size=SQUARE, **settings),
        tokenizer("<IMG_CONTEXT>", ("<img>", "</img>"), named),
        image_seq_length=tiles.TOKENS_OF_TILE,
        chat_template=chat_template("<image>"),
    )


def got_ocr2_processor(**settings: Any) -> Any:
    """It cuts no tiles unless it is asked to."""
    marks = ("<img>", "</img>", "<|im_start|>", "<|im_end|>")
    processor = GotOcr2Processor(
        GotOcr2ImageProcessorPil(size=OCR_SQUARE), tokenizer("<imgpad>", marks)
    )
    if not hasattr(processor, "images_kwargs"):
        version = transformers.__version__
        pytest.skip(f"transformers {version}: processors have no such settings")
    processor.num_image_tokens = tiles.OCR_TOKENS_OF_TILE
    processor.images_kwargs = {**processor.images_kwargs, **settings}
    return processor


def pp_chart2table_processor() -> Any:
    """Its chat template writes all image tokens."""
    image = "<img>" + "<imgpad>" * tiles.OCR_TOKENS_OF_TILE + "</img>"
    return PPChart2TableProcessor(
        PPChart2TableImageProcessorPil(size=OCR_SQUARE),
        tokenizer("<imgpad>", ("<img>", "</img>")),
        chat_template=chat_template(image),
    )


def aya_vision_processor(**settings: Any) -> Any:
    others = (
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_LINE_BREAK|>",
        "TILE",
        "TILE_GLOBAL",
        "<image>",
    )
    return AyaVisionProcessor(
        GotOcr2ImageProcessorPil(size=SQUARE, **settings),
        tokenizer("<|IMG_PATCH|>", others),
        patch_size=tiles.PATCH,
        img_size=tiles.TILE,
        downsample_factor=tiles.MERGE,
        chat_template=chat_template("<image>"),
    )


def cohere2_vision_processor(**settings: Any) -> Any:
    """Its image processor can't be imported without torchvision."""
    pytest.importorskip("torchvision", reason="the image processor needs torchvision")
    from transformers.models.cohere2_vision.image_processing_cohere2_vision import (
        Cohere2VisionImageProcessor,
    )

    named = {
        "image_token": "<image>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    return Cohere2VisionProcessor(
        Cohere2VisionImageProcessor(size=SQUARE, patch_size=tiles.SIDE, **settings),
        tokenizer("<image>", tuple(named.values())[1:], named),
        chat_template=chat_template("<image>"),
    )


def ovis2_processor(**settings: Any) -> Any:
    return Ovis2Processor(
        Ovis2ImageProcessorPil(size=SQUARE, **{"crop_to_patches": True, **settings}),
        tokenizer("<IMG_ATOM>", ("<image>", *OVIS2_INDICATORS)),
        image_seq_length=tiles.TOKENS_OF_TILE,
        chat_template=chat_template("<image>"),
    )


class PixtralParts:
    """Does what ``PixtralProcessor`` does, which needs torchvision.

    The adapter finds it by the name of the class below.
    """

    chat_template = None
    image_token = "[IMG]"

    def __init__(self, patch: int, merge: int) -> None:
        self.patch_size, self.spatial_merge_size = patch, merge
        self.image_processor = PixtralImageProcessorPil(
            size={"longest_edge": 112},
            patch_size={"height": patch * merge, "width": patch * merge},
        )
        marks = ("[IMG_BREAK]", "[IMG_END]")
        self.tokenizer = tokenizer("[IMG]", marks)
        self.image_token_id = IMAGE_TOKEN

    def __call__(
        self, images: Any, text: str, return_tensors: str = "pt", **settings: Any
    ) -> Any:
        made = self.image_processor(images, return_tensors=return_tensors, **settings)
        side = self.patch_size * self.spatial_merge_size
        for height, width in made["image_sizes"].tolist():
            row = "[IMG]" * (width // side)
            rows = "[IMG_BREAK]".join([row] * (height // side))
            text = text.replace("[IMG]", f"<{rows}[IMG_END]", 1)
        made.update(self.tokenizer(text, return_tensors=return_tensors))
        return made


class PixtralProcessor(PixtralParts):
    """Has the name of the processor that it stands for."""


def pixtral_processor(patch: int, merge: int) -> Any:
    return PixtralProcessor(patch, merge)
