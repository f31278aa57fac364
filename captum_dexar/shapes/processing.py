"""The bundled model's words, and its ``LlavaProcessor``."""

from captum_dexar.shapes.drawing import IMAGE_SIZE
from captum_dexar.shapes.language import COLOURS, NUMBERS, SHAPES, SIZES
from captum_dexar.worlds import processing
from captum_dexar.worlds.processing import (
    BOS,
    EOS,
    IMAGE,
    PAD,
    PATCH_SIZE,
    PIXEL_MEAN,
    PIXEL_STD,
    UNKNOWN,
    VISION_FEATURE_STRATEGY,
    vocabulary_of,
)
from transformers import LlavaProcessor

__all__ = [
    "BOS",
    "EOS",
    "IMAGE",
    "PAD",
    "PATCH_SIZE",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "UNKNOWN",
    "VISION_FEATURE_STRATEGY",
    "VOCABULARY",
    "build_processor",
]

OTHER_WORDS = (
    "user assistant : . , ? describe the image shows a an and above left of on "
    "what shape is object objects there anything how many are yes no"
)

# All words of the scenes' language, with their ids.
VOCABULARY = vocabulary_of((*OTHER_WORDS.split(), *SIZES, *COLOURS, *SHAPES, *NUMBERS))


def build_processor() -> LlavaProcessor:
    """The processor that is saved with the model; see
    :func:`captum_dexar.worlds.processing.build_processor`."""
    return processing.build_processor(VOCABULARY, IMAGE_SIZE)
