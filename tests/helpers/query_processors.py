"""Real processors of families whose image tokens are queries, for their tiny models."""

from typing import Any

from tests.families.cases.queries import NUM_QUERIES
from tests.helpers.plain_prompt_processors import tokenizer_of
from transformers import (
    AriaProcessor,
    Blip2Processor,
    Idefics2Processor,
    InstructBlipProcessor,
    Kosmos2Processor,
)
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import (
    Idefics2ImageProcessorPil,
)


def idefics2_processor(splits: bool = False) -> Any:
    """Images of at most 32 x 32 pixels, in patches of 8; perhaps in quarters too."""
    return Idefics2Processor(
        Idefics2ImageProcessorPil(
            size={"shortest_edge": 16, "longest_edge": 32}, do_image_splitting=splits
        ),
        tokenizer_of("<image>", image_token="<image>", image_boundary_token="<boi>"),
        image_seq_len=NUM_QUERIES,
    )


def aria_processor() -> Any:
    """Squares of 980 pixels."""
    return AriaProcessor(
        AriaImageProcessorPil(min_image_size=196),
        tokenizer_of("<image>", image_token="<image>"),
        size_conversion={980: NUM_QUERIES},
    )


def blip2_processor() -> Any:
    """Squares of 32 pixels."""
    return Blip2Processor(_squares(), _tokenizer(), NUM_QUERIES)


def instructblip_processor() -> Any:
    """The same, and the instruction for the Q-Former."""
    return InstructBlipProcessor(_squares(), _tokenizer(), _tokenizer(), NUM_QUERIES)


def kosmos2_processor() -> Any:
    """The middle of the image, as a square of 32 pixels, for 64 queries."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return Kosmos2Processor(image_processor, _tokenizer())


def _squares() -> Any:
    return BlipImageProcessorPil(size={"height": 32, "width": 32})


def _tokenizer() -> Any:
    return tokenizer_of("<image>")
