"""Words to ids and back; letters keep their case whatever a user types."""

import pytest
from captum_dexar.letters import build_processor
from captum_dexar.worlds.processing import UNKNOWN
from transformers import LlavaProcessor


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor()


def test_case_and_punctuation_do_not_matter(processor: LlavaProcessor) -> None:
    def tokens(text: str) -> list[str]:
        return processor.tokenizer.tokenize(text)

    assert tokens("Describe the image.") == tokens("describe the image .")
    assert tokens("is there a k?") == ["is", "there", "a", "K", "?"]
    assert tokens("What Color Is The K?") == tokens("what color is the K ?")
    assert tokens("A big E") == ["a", "big", "E"]
    assert tokens("a b") == ["a", UNKNOWN]
