"""Real processors of families whose image tokens are queries, for their tiny models."""

from typing import Any

from tests.families.cases.queries import NUM_QUERIES
from tests.helpers.plain_prompt_processors import tokenizer_of
from transformers import AriaProcessor, Idefics2Processor
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
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
