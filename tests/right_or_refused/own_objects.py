"""What users pass to ``generate`` besides numbers."""

import copy
from typing import Any

import torch
from tests.helpers.tiny_models import VOCABULARY
from tests.right_or_refused.setting import NUM_TOKENS, Setting
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    PreTrainedTokenizerFast,
    StaticCache,
    StoppingCriteria,
)
from transformers.generation.streamers import BaseStreamer

# The prompt's inputs with an entry for each token.
PER_TOKEN = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "cross_attention_mask",
)


class Bias(LogitsProcessor):
    """Prefers some tokens, and changes the scores that it gets."""

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        scores[:, 10:20] += 30.0
        return scores


class StopAt(StoppingCriteria):
    """Ends each answer of a batch at a token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        return input_ids[:, -1] == self.token


class Collected(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        self.values.append(value)

    def end(self) -> None:
        self.values.clear()


def odd_ids(batch_index: int, ids: Tensor) -> list[int]:
    """The tokens that may follow."""
    return list(range(5, 91, 2))


def second_best(model: Any, input_ids: Tensor, **given: Any) -> Tensor:
    """A user's own way of decoding: the second best token of each step."""
    kept = {name: given[name] for name in ("pixel_values", *PER_TOKEN) if name in given}
    kept.pop("attention_mask", None)
    for _ in range(NUM_TOKENS):
        logits = model(input_ids=input_ids, **kept, use_cache=False).logits[:, -1]
        input_ids = torch.cat([input_ids, logits.topk(2).indices[:, 1:]], dim=1)
        for name in set(kept).intersection(PER_TOKEN):
            kept[name] = torch.cat([kept[name], kept[name][:, -1:]], dim=1)
    return input_ids


def word_tokenizer() -> Any:
    """A tokenizer of the tiny models' vocabulary: ``w0`` to ``w98``."""
    # Transformers looks how it decodes what comes after this word.
    words = {4: "abcdef"}
    vocabulary = {words.get(index, f"w{index}"): index for index in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="abcdef")),
        unk_token="abcdef",
        pad_token="w0",
    )


def dynamic_cache(setting: Setting) -> DynamicCache:
    """Empty."""
    return DynamicCache(config=_text_config(setting))


def static_cache(setting: Setting) -> StaticCache:
    """Empty, with room to spare."""
    return StaticCache(config=_text_config(setting), max_cache_len=100)


def cache_of_prompt(setting: Setting) -> DynamicCache:
    """Holds all of the prompt but its last token."""
    return _filled(
        setting,
        {
            name: value[:, :-1] if name in PER_TOKEN else value
            for name, value in setting.prompt().items()
        },
    )


def cache_of_first_tokens(setting: Setting) -> DynamicCache:
    """Holds two tokens before the image."""
    return _filled(setting, {"input_ids": setting.prompt()["input_ids"][:, :2]})


def _filled(setting: Setting, inputs: dict[str, Any]) -> DynamicCache:
    cache = dynamic_cache(setting)
    # A copy: models with positions of several axes remember where a prompt ended.
    with torch.no_grad():
        copy.deepcopy(setting.pristine)(**inputs, past_key_values=cache, use_cache=True)
    return cache


def _text_config(setting: Setting) -> Any:
    return setting.pristine.config.get_text_config(decoder=True)
