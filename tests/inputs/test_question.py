"""The user's words in the tokens of a prompt, however a tokenizer splits them."""

from typing import Any

import pytest
from captum_dexar.inputs.messages import Conversation
from captum_dexar.inputs.question import asked_texts, positions_of_texts
from tests.helpers.tokenizers import byte_level, sentence_piece

TOKENIZERS = {
    # The question's end and the line feed behind it are one token.
    "byte_level": byte_level("USER", " cat", "?\n", "What"),
    "sentence_piece": sentence_piece("USER", " cat", " What", "What is"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    "question",
    ["What is a cat?", " What  is\na cat?", "Was heißt 猫 🐈?", "cat", "?"],
)
def test_a_question_is_found(kind: str, question: str) -> None:
    tokenizer = TOKENIZERS[kind]
    whole = f"USER: \n{question}\nASSISTANT:"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    found = positions_of_texts(ids, [question], tokenizer)
    assert tokenizer.decode([ids[place] for place in found]).strip() == question.strip()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_first_place_behind_the_image_counts(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]

    def places(whole: str, texts: list[str], after: int) -> Any:
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        return len(ids), positions_of_texts(ids, texts, tokenizer, after)

    length, first = places("a=b a=b a=b", ["a=b"], 0)
    _, second = places("a=b a=b a=b", ["a=b"], len(first))
    assert first[-1] < second[0] and second[-1] < length - 1
    # Words before the image are found when there are none behind it.
    _, before = places("a=b c", ["a=b"], 4)
    assert before == first
    _, both = places("a=b and c", ["c", "a=b"], 0)
    assert both[: len(first)] == first and len(both) > len(first)
    assert places("a=b", ["d"], 0)[1] is None
    assert places("a=b", ["", "a=b"], 0)[1] == first


def test_what_is_the_users() -> None:
    image, text = {"type": "image"}, {"type": "text", "text": "Who?"}
    conversation = Conversation.of(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [image, text]},
            {"role": "assistant", "content": "A cat"},
        ]
    )
    assert asked_texts(conversation, "<image>") == ("Who?", "A cat")
    assert asked_texts("Who?", "<image>") == ("Who?",)
    assert asked_texts("Who?", "") == ("Who?",)
    assert asked_texts("USER: <image> Who?", "<image>") is None
