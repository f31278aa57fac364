"""Words to ids and back; letters keep their case whatever a user types."""

import pytest
from captum_dexar.letters import build_processor, make_scene
from captum_dexar.letters.processing import VOCABULARY
from captum_dexar.worlds.processing import IMAGE, UNKNOWN, vocabulary_of
from transformers import LlavaProcessor


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor()


def test_everything_said_survives_the_tokenizer(processor: LlavaProcessor) -> None:
    for seed in range(150):
        scene = make_scene(seed)
        said = [scene.caption]
        for question in scene.questions:
            said += [question.text, question.answer]
        for text in said:
            ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert VOCABULARY[UNKNOWN] not in ids
            assert len(ids) == len(text.split())
            assert processor.decode(ids) == text


def test_no_word_is_without_use() -> None:
    used = set()
    for seed in range(400):
        scene = make_scene(seed)
        used |= set(scene.caption.split())
        for question in scene.questions:
            used |= set(question.text.split()) | set(question.answer.split())
    prompt_words = set("user assistant : describe image".split())
    words = {word for word in VOCABULARY if not word.startswith("<")}
    assert words == used | prompt_words


def test_case_and_punctuation_do_not_matter(processor: LlavaProcessor) -> None:
    def tokens(text: str) -> list[str]:
        return processor.tokenizer.tokenize(text)

    assert tokens("Describe the image.") == tokens("describe the image .")
    assert tokens("is there a k?") == ["is", "there", "a", "K", "?"]
    assert tokens("What Color Is The K?") == tokens("what color is the K ?")
    assert tokens("A big E") == ["a", "big", "E"]
    assert tokens("a b") == ["a", UNKNOWN]


def test_a_saved_processor_is_the_same(
    processor: LlavaProcessor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("processor")
    processor.save_pretrained(folder)
    loaded = LlavaProcessor.from_pretrained(folder, backend="pil")
    scene = make_scene(3)
    text = f"USER: <image>\nDescribe the image. ASSISTANT: {scene.caption}"
    given = [
        one(images=scene.image, text=text, return_tensors="pt")
        for one in (processor, loaded)
    ]
    for name in ("input_ids", "pixel_values"):
        assert given[0][name].equal(given[1][name])
    assert (given[0]["input_ids"] == VOCABULARY[IMAGE]).sum() == 144


def test_vocabularies_have_each_word_once() -> None:
    with pytest.raises(ValueError, match=r"got twice: \['a'\]"):
        vocabulary_of(["a", "b", "a"])
