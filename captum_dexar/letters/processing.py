"""The words of scenes with letters, and the ``LlavaProcessor`` of a model."""

from captum_dexar.letters.drawing import IMAGE_SIZE
from captum_dexar.letters.language import CHARACTERS, COLOURS, NUMBERS, SIZES
from captum_dexar.worlds import processing
from captum_dexar.worlds.processing import vocabulary_of
from transformers import LlavaProcessor

OTHER_WORDS = (
    "user assistant : . , ? describe the image there is are a an and above left of on "
    "which what character characters digits color anything how many written yes no"
)

# All words of the scenes' language, with their ids.
VOCABULARY = vocabulary_of(
    (*OTHER_WORDS.split(), *SIZES, *COLOURS, *CHARACTERS, *NUMBERS)
)


def build_processor() -> LlavaProcessor:
    """The processor of a model of this world; see
    :func:`captum_dexar.worlds.processing.build_processor`.

    Examples::

        >>> from captum_dexar.letters import build_processor
        >>> tokenizer = build_processor().tokenizer
        >>> tokenizer.tokenize("Is there a red k?")
        ['is', 'there', 'a', 'red', 'K', '?']
    """
    return processing.build_processor(VOCABULARY, IMAGE_SIZE)
