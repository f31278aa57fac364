"""Real processors of families whose image tokens are queries, for their tiny models."""

from typing import Any

from tests.families.cases import deepseek_ocr2
from tests.families.cases.idefics import SIDE
from tests.families.cases.queries import NUM_QUERIES, PATCH
from tests.helpers.plain_prompt_processors import tokenizer_of
from transformers import (
    AriaProcessor,
    Blip2Processor,
    DeepseekOcr2Processor,
    Idefics2Processor,
    IdeficsProcessor,
    InstructBlipProcessor,
    Kosmos2_5Processor,
    Kosmos2Processor,
)
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import (
    DeepseekOcr2ImageProcessorPil,
)
from transformers.models.idefics.image_processing_pil_idefics import (
    IdeficsImageProcessorPil,
)
from transformers.models.idefics2.image_processing_pil_idefics2 import (
    Idefics2ImageProcessorPil,
)
from transformers.models.kosmos2_5.image_processing_pil_kosmos2_5 import (
    Kosmos2_5ImageProcessorPil,
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


class Splitting(AriaProcessor):
    """Called for split images, in parts of 490 or 980 pixels."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        (side,) = self.size_conversion
        return super().__call__(*args, split_image=True, max_image_size=side, **kwargs)


def aria_split_processor(side: int = 490, two_parts: bool = True) -> Any:
    """Parts of a canvas of 490 x 980 pixels, or of the usual ones."""
    canvases = [[490, 980]] if two_parts else None
    return Splitting(
        AriaImageProcessorPil(min_image_size=196, split_resolutions=canvases),
        tokenizer_of("<image>", image_token="<image>"),
        size_conversion={side: NUM_QUERIES},
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


class FewPatches(Kosmos2_5Processor):
    """Called for 16 patches, in place of 4096."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, max_patches=16, **kwargs)


def kosmos2_5_processor() -> Any:
    """As many patches of 8 x 8 pixels as are allowed."""
    tokenizer = tokenizer_of(
        "<image>", boi_token="<boi>", eoi_token="<eoi>", image_token="<image>"
    )
    size = {"height": PATCH, "width": PATCH}
    image_processor = Kosmos2_5ImageProcessorPil(patch_size=size)
    return FewPatches(image_processor, tokenizer, NUM_QUERIES)


def idefics_processor() -> Any:
    """Squares of 16 pixels."""
    tokenizer = tokenizer_of("<image>", "<fake_token_around_image>")
    # Its own tokenizer needs no blanks around special tokens.
    tokenizer.add_tokens(
        ["<s>", "<image>", "<fake_token_around_image>"], special_tokens=True
    )
    return IdeficsProcessor(IdeficsImageProcessorPil(image_size=SIDE), tokenizer)


def deepseek_ocr2_processor() -> Any:
    """Squares of 64 pixels, and as large tiles of images that are larger."""
    side = deepseek_ocr2.SIDE
    return DeepseekOcr2Processor(
        DeepseekOcr2ImageProcessorPil(
            size={"height": side, "width": side}, tile_size=side
        ),
        tokenizer_of("<image>", image_token="<image>"),
        patch_size=deepseek_ocr2.PATCH,
        downsample_ratio=4,
    )


def _squares() -> Any:
    return BlipImageProcessorPil(size={"height": 32, "width": 32})


def _tokenizer() -> Any:
    return tokenizer_of("<image>")
