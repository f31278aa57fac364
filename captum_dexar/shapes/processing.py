"""The ``LlavaProcessor`` of the bundled model: tokenizer and image processor."""

from captum_dexar.shapes.drawing import IMAGE_SIZE
from captum_dexar.shapes.language import COLOURS, NUMBERS, SHAPES, SIZES
from tokenizers import normalizers, pre_tokenizers, processors, Regex, Tokenizer
from tokenizers.models import WordLevel
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNKNOWN, IMAGE)
OTHER_WORDS = (
    "user assistant : . , ? describe the image shows a an and above left of on "
    "what shape is object objects there anything how many are yes no"
)

# All words of the scenes' language, with their ids.
VOCABULARY: dict[str, int] = {
    word: index
    for index, word in enumerate(
        (*SPECIAL_TOKENS, *OTHER_WORDS.split(), *SIZES, *COLOURS, *SHAPES, *NUMBERS)
    )
}

PATCH_SIZE = 8
VISION_FEATURE_STRATEGY = "default"
PIXEL_MEAN = 0.5
PIXEL_STD = 0.25

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}"
    "{{ '<image>\n' }}"
    "{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] }}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One id per word: lower-cases, splits at spaces and around punctuation."""
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"[^\w\s]"), "isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, VOCABULARY[BOS])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """The processor that is saved with the model.

    It resizes the shortest edge to 96, crops the centre, normalises, and expands
    ``<image>`` to one token per patch. Its chat template writes
    ``USER: <image>\\n{question} ASSISTANT:``.
    """
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy=VISION_FEATURE_STRATEGY,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
