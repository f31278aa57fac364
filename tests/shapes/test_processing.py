"""Words to ids and back; prompts as users write them."""

import pytest
from captum_dexar.shapes import make_scene
from captum_dexar.shapes.processing import build_processor, UNKNOWN, VOCABULARY
from transformers import LlavaProcessor


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor()


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


def test_batches_are_padded_on_the_left(processor: LlavaProcessor) -> None:
    scene = make_scene(3)
    texts = ["USER: <image>\nis there a star ? ASSISTANT:", "USER: <image>\nyes"]
    inputs = processor(
        images=[scene.image] * 2, text=texts, padding=True, return_tensors="pt"
    )
    assert inputs["attention_mask"][1].tolist()[:3] == [0, 0, 0]
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
