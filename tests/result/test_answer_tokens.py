"""The text of an answer, token by token and as words."""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.result.answer_tokens import AnswerTokens
from captum_dexar.result.words import begins_word, word_groups, words_of
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.tokenizers import byte_level, END, sentence_piece
from transformers import TextIteratorStreamer

MERGED = (" naive", " cat", "hello", "红色", " the", "the", ".")
TOKENIZERS = {"bytes": byte_level(*MERGED), "pieces": sentence_piece(*MERGED)}
ANSWERS = (
    "a naïve café costs $5_000 \\ 5% .",
    "这是一个红色的圆，右边是蓝色的方块。",
    "赤い丸とサークルです。OK、了解 2 つ",
    "สีแดงวงกลม the cat",
    "👩‍👩‍👧 flag 🇩🇪!",
    "- one\n- two\n\n```py\nx = 1\n```\n",
    "hello�there the\u00a0cat",
    "नमस्ते שלום 안녕하세요",
    " ",
)
each_answer = pytest.mark.parametrize("text", ANSWERS)
each_tokenizer = pytest.mark.parametrize("kind", TOKENIZERS)


def ids_of(text: str, tokenizer: Any) -> torch.Tensor:
    return torch.tensor(tokenizer.encode(text + END, add_special_tokens=False))


def parts_of(ids: torch.Tensor, tokenizer: Any) -> list[AnswerTokens]:
    return [
        AnswerTokens(ids[place : place + 1], tokenizer, ids[:place])
        for place in range(len(ids))
    ]


def words(ids: torch.Tensor, tokenizer: Any) -> list[str]:
    made = AnswerTokens(ids, tokenizer)
    groups = word_groups(made.texts, made.word_starts, made.special, False)
    assert sum(groups, []) == (~made.special).nonzero()[:, 0].tolist()
    return [word.text for word in words_of(made.texts, groups, None, None)]


@each_answer
@each_tokenizer
def test_streamed_texts_are_those_of_transformers(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = ids_of(text, tokenizer)
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True)
    for token in ids:
        streamer.put(token[None])
    streamer.end()
    parts = parts_of(ids, tokenizer)
    whole = AnswerTokens(ids, tokenizer).answer
    assert "".join(part.answer for part in parts) == whole == "".join(streamer)
    assert whole == tokenizer.decode(ids, skip_special_tokens=True)


@each_answer
@each_tokenizer
def test_a_streamed_token_is_as_in_the_whole_answer(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = ids_of(text, tokenizer)
    whole, parts = AnswerTokens(ids, tokenizer), parts_of(ids, tokenizer)
    assert [part.texts for part in parts] == [[one] for one in whole.texts]
    assert torch.equal(
        torch.cat([part.word_starts for part in parts]), whole.word_starts
    )
    assert torch.equal(torch.cat([part.special for part in parts]), whole.special)


def test_the_token_that_completes_a_character_has_all_of_it() -> None:
    tokenizer = TOKENIZERS["bytes"]
    assert AnswerTokens(ids_of("ï圆", tokenizer), tokenizer).texts == [
        *("", "ï"),
        *("", "", "圆"),
        END,
    ]


def test_an_answer_cut_within_a_character_is_what_the_tokenizer_decodes() -> None:
    tokenizer = TOKENIZERS["bytes"]
    ids = ids_of("naï", tokenizer)[:-2]
    assert AnswerTokens(ids, tokenizer).answer == tokenizer.decode(ids) == "na�"
    assert [part.answer for part in parts_of(ids, tokenizer)] == ["n", "a", ""]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("the  red cat .", ["the", "red", "cat", "."]),
        ("the red cat.", ["the", "red", "cat."]),
        ('can\'t "stop" (well-known) and/or f(x), 3.14', None),
        ("naïve café", ["naïve", "café"]),
        ("- one\n- two\n", ["-", "one", "-", "two"]),
        ("这是红色的圆。右边", ["这", "是", "红色", "的", "圆。", "右", "边"]),
        ("红，blue（蓝）。Hello", ["红，", "blue", "（蓝）。", "Hello"]),
        ("赤いサークル「丸」です", ["赤", "い", "サークル", "「丸」", "で", "す"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("cat🔴👩‍👩‍👧 ok", ["cat", "🔴", "👩‍👩‍👧", "ok"]),
        # Thai words need a dictionary: every token that begins a syllable stands alone.
        ("สีแดง", ["สี", "แ", "ด", "ง"]),
    ],
)
def test_words(text: str, expected: list[str] | None) -> None:
    """A word per blank where blanks are written, otherwise by Unicode's rules."""
    tokenizer = TOKENIZERS["bytes"]
    found = words(ids_of(text, tokenizer), tokenizer)
    assert found == (expected or text.split())


def test_a_token_is_never_split() -> None:
    assert [begins_word("红色的", place) for place in range(3)] == [True] * 3
    tokenizer = TOKENIZERS["bytes"]
    assert words(ids_of("红色", tokenizer)[:-1], tokenizer) == ["红色"]


@each_tokenizer
def test_a_stream_writes_the_whole_answer(kind: str) -> None:
    """Through the model, whose choice is forced to the answer's tokens."""
    tokenizer, text = TOKENIZERS[kind], "the naïve 圆"
    ids = ids_of(text, tokenizer)
    model: Any = tiny_vlm(seed=3, vocab_size=len(tokenizer))
    inputs = prompt_inputs(3)
    length = inputs["input_ids"].shape[1]

    def forced(_: int, sequence: torch.Tensor) -> list[int]:
        return [int(ids[len(sequence) - length])]

    gen_args: Any = {
        "max_new_tokens": len(ids),
        "do_sample": False,
        "prefix_allowed_tokens_fn": forced,
        "eos_token_id": 0,
    }
    method = VLMAttribution(LayerDexAR(model), tokenizer)
    parts = list(method.stream(inputs, gen_args=gen_args))
    whole = method.attribute(inputs, gen_args=gen_args)
    assert whole.answer == text == "".join(part.answer for part in parts)
    assert [part.output_tokens[0] for part in parts] == whole.output_tokens
    starts = torch.cat([part.word_starts for part in parts])
    assert torch.equal(starts, whole.word_starts)
    assert [word.text for word in whole.words()] == ["the", "naïve", "圆"]
