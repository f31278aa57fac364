"""Real processors built offline, whose ids are those of the tiny models."""

from typing import Any

from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from tokenizers import models, pre_tokenizers, processors, Tokenizer
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

SIDE = 32
PATCH = 8
SQUARE = {"height": SIDE, "width": SIDE}

# Settings of the image processor, by what they do to an image.
CROP: dict[str, Any] = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
STRETCH: dict[str, Any] = {"size": SQUARE, "do_center_crop": False}
PAD: dict[str, Any] = {"size": SQUARE, "do_pad": True, "do_center_crop": False}
NO_CROP: dict[str, Any] = {"size": {"shortest_edge": SIDE}, "do_center_crop": False}
SETTINGS = {"crop": CROP, "stretch": STRETCH, "pad": PAD, "no_crop": NO_CROP}

WORDS = "USER ASSISTANT : . ? what is in the image a red blue circle square left of"
CHAT_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token, and every id of the tiny models is a word."""
    known = ["<pad>", "<s>", "</s>", "<image>", "<unk>", *WORDS.split()]
    known += [f"word{index}" for index in range(len(known), VOCABULARY)]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # Like LLaVA's own tokenizer, a special token goes before every text.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    assert wrapped.convert_tokens_to_ids("<image>") == IMAGE_TOKEN
    assert len(wrapped) == VOCABULARY
    return wrapped


def llava_processor(
    image_settings: dict[str, Any] = CROP,
    strategy: str = "default",
    chat_template: str | None = CHAT_TEMPLATE,
) -> LlavaProcessor:
    """The processor of the tiny models: 32 x 32 pixels in patches of 8.

    Args:
        image_settings: arguments of the image processor
        strategy: as ``vision_feature_select_strategy`` of the model's configuration
        chat_template: None for a processor that can't write a prompt
    """
    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil(**image_settings),
        tokenizer=word_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
