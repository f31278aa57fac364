"""A ``LlavaProcessor`` for drawn scenes: one token per word of a small vocabulary."""

from collections.abc import Iterable, Mapping, Sequence

from tokenizers import normalizers, pre_tokenizers, processors, Regex, Tokenizer
from tokenizers.models import WordLevel
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNKNOWN, IMAGE)

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


def vocabulary_of(words: Sequence[str]) -> dict[str, int]:
    """The ids of the special tokens and of words.

    Raises:
        ValueError: a word is given twice.
    """
    tokens = [*SPECIAL_TOKENS, *words]
    repeated = sorted({word for word in tokens if tokens.count(word) > 1})
    if repeated:
        raise ValueError(f"A vocabulary has each word once, got twice: {repeated}.")
    return {word: index for index, word in enumerate(tokens)}


def _normalizer(vocabulary: Iterable[str]) -> normalizers.Normalizer:
    """Makes all words lower-case but those that are single capital letters."""
    lowercase = normalizers.Lowercase()
    capitals = [word for word in vocabulary if len(word) == 1 and word.isupper()]
    if not capitals:
        return lowercase
    raised = [
        normalizers.Replace(Regex(rf"\b{letter.lower()}\b"), letter)
        for letter in capitals
    ]
    return normalizers.Sequence([lowercase, *raised])


def build_tokenizer(vocabulary: Mapping[str, int]) -> PreTrainedTokenizerFast:
    """One id per word: splits at spaces and around punctuation; case does not matter.

    Args:
        vocabulary (Mapping): the ids, see :func:`vocabulary_of`; words are of lower
            case, or single capital letters
    """
    tokenizer = Tokenizer(WordLevel(dict(vocabulary), unk_token=UNKNOWN))
    tokenizer.normalizer = _normalizer(vocabulary)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"[^\w\s]"), "isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, vocabulary[BOS])],
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


def build_processor(vocabulary: Mapping[str, int], image_size: int) -> LlavaProcessor:
    """The processor that is saved with a model.

    It resizes the shortest edge to ``image_size``, crops the centre, normalises, and
    expands ``<image>`` to one token per patch. Its chat template writes
    ``USER: <image>\\n{question} ASSISTANT:``.

    Args:
        vocabulary (Mapping): the ids, see :func:`vocabulary_of`
        image_size (int): height and width of what the model sees, in pixels
    """
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(vocabulary),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy=VISION_FEATURE_STRATEGY,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
