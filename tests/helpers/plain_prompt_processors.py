"""Real processors of families that need no chat template, for their tiny models."""

from typing import Any

import torch
from tests.helpers.tiny_models import IMAGE_TOKEN, VOCABULARY
from tokenizers import models, normalizers, pre_tokenizers, Regex, Tokenizer
from torch import Tensor
from transformers import (
    ChameleonProcessor,
    Florence2Processor,
    FuyuProcessor,
    MllamaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.chameleon.image_processing_pil_chameleon import (
    ChameleonImageProcessorPil,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import (
    SiglipImageProcessorPil,
)

WORDS = "what is in the image ? a red blue circle square left of <boi> <eoi> <sep>"


def tokenizer_of(image_word: str, *after: str, **named: str) -> PreTrainedTokenizerFast:
    """A word is a token, and every id of the tiny models is a word.

    Args:
        image_word: the word with the tiny models' id of it
        after: the words that follow it in the vocabulary
        named: special tokens by name
    """
    known = ["<pad>", "<s>", "</s>", image_word, *after, "<unk>", *WORDS.split()]
    known += [f"word{index}" for index in range(len(known), VOCABULARY)]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    assert wrapped.convert_tokens_to_ids(image_word) == IMAGE_TOKEN
    return wrapped


def paligemma_processor() -> PaliGemmaProcessor:
    """32 x 32 pixels in patches of 8."""
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    image_processor.image_seq_length = 16
    return PaliGemmaProcessor(
        image_processor, tokenizer_of("<image>", image_token="<image>")
    )


def florence2_processor(side: int = 32) -> Florence2Processor:
    """A square in tokens of 8 x 8 pixels, and one token for the whole."""
    image_processor = CLIPImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False
    )
    image_processor.image_seq_length = 1 + (side // 8) ** 2
    return Florence2Processor(
        image_processor, tokenizer_of("<image>", image_token="<image>")
    )


def mllama_processor() -> MllamaProcessor:
    """Up to four tiles of 24 x 24 pixels."""
    image_processor = MllamaImageProcessorPil(size={"height": 24, "width": 24})
    return MllamaProcessor(
        image_processor, tokenizer_of("<|image|>", image_token="<|image|>")
    )


class _FuyuImageProcessor(FuyuImageProcessorPil):
    """In transformers 5.23 the processor passes tensors to it where it needs arrays."""

    def patchify_image(self, image: Tensor, patch_size: Any = None) -> Tensor:
        return torch.from_numpy(super().patchify_image(image.numpy(), patch_size))


def fuyu_processor() -> FuyuProcessor:
    """At most 60 x 72 pixels in patches of 6."""
    tokenizer = tokenizer_of("|SPEAKER|", "|NEWLINE|", "<0x04>", "▁")
    # As its own tokenizer does: a mark at the start of a text, no space in between.
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("▁ ")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\|[A-Z]+\||<0x04>"), "isolated"),
            pre_tokenizers.WhitespaceSplit(),
        ]
    )
    image_processor = _FuyuImageProcessor(
        size={"height": 60, "width": 72}, patch_size={"height": 6, "width": 6}
    )
    return FuyuProcessor(image_processor, tokenizer)


def chameleon_processor(side: int = 16) -> ChameleonProcessor:
    """The centre of an image in codes of 4 x 4 pixels."""
    special: dict[str, Any] = {
        "image_token": "<image>",
        "boi_token": "<boi>",
        "eoi_token": "<eoi>",
    }
    tokenizer = tokenizer_of("<image>", **special)
    tokenizer.add_special_tokens({"sep_token": "<sep>"})
    image_processor = ChameleonImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    return ChameleonProcessor(
        image_processor, tokenizer, image_seq_length=(side // 4) ** 2
    )
