"""Words to ids and back; prompts as users write them."""

import pytest
import torch
from captum_dexar.shapes import make_scene
from captum_dexar.shapes.processing import build_processor, IMAGE, UNKNOWN, VOCABULARY
from captum_dexar.training.batches import pixel_values
from captum_dexar.training.packing import pack, Turn
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
    for seed in range(300):
        scene = make_scene(seed)
        used |= set(scene.caption.split())
        for question in scene.questions:
            used |= set(question.text.split()) | set(question.answer.split())
    prompt_words = set("user assistant : describe".split())
    words = {word for word in VOCABULARY if not word.startswith("<")}
    assert words == used | prompt_words


def test_case_and_punctuation_do_not_matter(processor: LlavaProcessor) -> None:
    def ids(text: str) -> list[int]:
        return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    assert ids("Describe the image.") == ids("describe the image .")
    assert ids("Is there a circle?") == ids("is there a circle ?")
    assert ids("a dodecahedron")[1] == VOCABULARY[UNKNOWN]


def test_chat_template_writes_the_trained_prompt(processor: LlavaProcessor) -> None:
    question = {"type": "text", "text": "Describe the image."}
    user = {"role": "user", "content": [{"type": "image"}, question]}
    prompt = processor.apply_chat_template([user], add_generation_prompt=True)
    assert prompt == "USER: <image>\nDescribe the image. ASSISTANT:"
    answer = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
    assert processor.apply_chat_template([user, answer]).endswith("ASSISTANT: yes</s>")


def test_training_sees_what_the_processor_makes(processor: LlavaProcessor) -> None:
    scene = make_scene(3)
    inputs = processor(
        images=scene.image,
        text="USER: <image>\nDescribe the image. ASSISTANT:",
        return_tensors="pt",
    )
    packed = pack([[Turn("describe the image .", scene.caption)]], VOCABULARY, 144)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(packed.input_ids[:, :length], inputs["input_ids"])
    assert packed.input_ids.shape[1] == length + len(scene.caption.split()) + 1
    assert (inputs["input_ids"] == VOCABULARY[IMAGE]).sum() == 144
    assert torch.equal(pixel_values([scene]), inputs["pixel_values"])


def test_batches_are_padded_on_the_left(processor: LlavaProcessor) -> None:
    scene = make_scene(3)
    texts = ["USER: <image>\nis there a star ? ASSISTANT:", "USER: <image>\nyes"]
    inputs = processor(
        images=[scene.image] * 2, text=texts, padding=True, return_tensors="pt"
    )
    assert inputs["attention_mask"][1].tolist()[:3] == [0, 0, 0]
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
