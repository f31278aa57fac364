"""Chat messages as the prompt, against the processors' own chat templates."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.shapes import load_vlm, make_scene
from PIL import Image
from tests.helpers.blocks import dark_image
from tests.helpers.every_processor import CHAT_PROCESSORS, PLAIN_PROCESSORS
from tests.helpers.processors import CROP, llava_processor

FIRST, SECOND = dark_image(40, 60, seed=0), dark_image(64, 48, seed=1)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(picture: Any = None) -> dict[str, Any]:
    return {"type": "image"} if picture is None else {"type": "image", "image": picture}


def message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


# Each with its images inside the parts.
CONVERSATIONS = {
    "a question": [message("user", image(FIRST), text("what is in the image ?"))],
    "the image last": [message("user", text("what is in the image ?"), image(FIRST))],
    "a system message": [
        message("system", text("a red circle is left .")),
        message("user", image(FIRST), text("what is left ?")),
    ],
    "several turns": [
        message("user", image(FIRST), text("what is in the image ?")),
        message("assistant", text("a red circle .")),
        message("user", text("what is left of a circle ?")),
    ],
    "images in several turns": [
        message("system", text("what is in the image ?")),
        message("user", image(FIRST), text("what is left ?")),
        message("assistant", text("a blue square .")),
        message("user", text("what is in"), image(SECOND), text("?")),
    ],
    "the beginning of an answer": [
        message("user", image(FIRST), text("what is in the image ?")),
        message("assistant", text("the image is a red")),
    ],
}


# In words that the tokenizers know; one of them takes unknown words for a video.
ROLES = "{'system': 'the', 'user': 'USER', 'assistant': 'ASSISTANT'}"


@cache
def made(name: str) -> Any:
    """The processor, with a template that writes every role."""
    processor = CHAT_PROCESSORS[name]()
    role = "{{ " + ROLES + "[message['role']] }}: "
    processor.chat_template = processor.chat_template.replace("USER: ", role)
    return processor


def own_inputs(processor: Any, messages: Any) -> dict[str, Any]:
    """What the processor's own function makes of messages that hold their images."""
    goes_on = messages[-1]["role"] == "assistant"
    return dict(
        processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
    )


def assert_equal(inputs: Any, expected: Any) -> None:
    assert inputs.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(inputs[name]), torch.as_tensor(value))


def without_images(messages: Any) -> Any:
    return [
        message(
            one["role"], *({k: p[k] for k in p if k != "image"} for p in one["content"])
        )
        for one in messages
    ]


def num_images(messages: Any) -> int:
    return sum(part["type"] == "image" for one in messages for part in one["content"])


@pytest.mark.parametrize("name", CHAT_PROCESSORS)
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_inputs_are_those_of_the_chat_template(name: str, kind: str) -> None:
    processor, messages = made(name), CONVERSATIONS[kind]
    expected = own_inputs(processor, messages)
    inp = ImagePromptInput(None, messages, processor)
    assert_equal(inp.to_model_input(), expected)
    pictures = [FIRST, SECOND][: num_images(messages)]
    apart = ImagePromptInput(pictures, without_images(messages), processor)
    assert_equal(apart.to_model_input(), expected)
    assert apart.prompt == inp.prompt and apart.layout == inp.layout
    assert [one.tobytes() for one in inp.images] == [one.tobytes() for one in pictures]


def test_a_question_is_a_message_of_the_user() -> None:
    processor = llava_processor(CROP)
    parts = [image(), text("what is in the image ?")]
    inp = ImagePromptInput(FIRST, [message("user", *parts)], processor)
    expected = ImagePromptInput(FIRST, "what is in the image ?", processor)
    assert inp.prompt == expected.prompt
    assert_equal(inp.to_model_input(), expected.to_model_input())


def test_what_was_asked_as_one_text() -> None:
    """Without the template, unless the prompt is given with it."""
    processor = llava_processor()

    def question(prompt: Any) -> str:
        return ImagePromptInput(FIRST, prompt, processor).question

    complete = "USER: <image>\nwhat is left ? ASSISTANT:"
    assert question("what is left ?") == "what is left ?"
    assert question(complete) == complete
    turns = [
        message("system", text("a red circle is left .")),
        message("user", image(), text("what is left ?")),
        message("assistant", text("a red")),
    ]
    assert question(turns) == "what is left ?\na red"


def test_a_text_may_hold_the_placeholder_itself() -> None:
    _, processor = load_vlm()
    messages = [{"role": "user", "content": "<image>\nDescribe the image."}]
    inp = ImagePromptInput(FIRST, messages, processor)
    assert inp.prompt == "USER: <image>\nDescribe the image. ASSISTANT:"


def test_images_inside_and_apart_take_their_places() -> None:
    processor = made("llava")
    parts = [image(), image(SECOND), image(), text("what is left ?")]
    messages = [message("user", *parts)]
    inp = ImagePromptInput([FIRST, dark_image(9, 9)], messages, processor)
    sizes = [one.size for one in inp.images]
    assert sizes == [(60, 40), (48, 64), (9, 9)]


def test_every_kind_of_image_in_a_message(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    FIRST.save(path)
    processor = made("llava")
    question = text("what is left ?")
    expected = own_inputs(processor, [message("user", image(FIRST), question)])
    parts = [
        image(np.asarray(FIRST)),
        image(torch.tensor(np.asarray(FIRST))),
        image(path),
        {"type": "image", "path": str(path)},
        {"type": "image", "url": str(path)},
        {"type": "image_url", "image_url": {"url": str(path)}},
        {"type": "image", "image": FIRST, "url": None},
    ]
    for part in parts:
        inp = ImagePromptInput(None, [message("user", part, question)], processor)
        assert_equal(inp.to_model_input(), expected)


def test_messages_are_not_changed() -> None:
    for messages in CONVERSATIONS.values():
        copied = [message(one["role"], *map(dict, one["content"])) for one in messages]
        ImagePromptInput(None, messages, made("llava"))
        assert messages == copied


def test_the_answer_goes_on_from_its_beginning() -> None:
    """What follows the beginning of a generated answer is explained as part of it."""
    model, processor = load_vlm()
    dexar = VLMAttribution(LayerDexAR(model), processor)
    scene = make_scene(0).image
    question = message("user", image(), text("Describe the image."))
    whole = dexar.attribute(ImagePromptInput(scene, [question], processor, model))
    words = processor.tokenizer.decode(whole.target_ids[:3])
    begun = [question, message("assistant", text(words))]
    rest = dexar.attribute(ImagePromptInput(scene, begun, processor, model))
    assert torch.equal(rest.target_ids, whole.target_ids[3:])
    torch.testing.assert_close(
        rest.token_attr, whole.token_attr[3:], rtol=1e-4, atol=1e-7
    )


def failing_template(processor: Any) -> Any:
    processor.chat_template = "{{ raise_exception('Roles must alternate') }}"
    return processor


def template_without_system(processor: Any) -> Any:
    processor.chat_template = (
        "{% for message in messages if message['role'] != 'system' %}"
        "{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
        "{% endfor %}{% endfor %}"
    )
    return processor


QUESTION = message("user", image(), text("what is left ?"))
Case = tuple[Callable[[], object], type[Exception], str]


def refused(messages: Any, given: Any = FIRST, processor: Any = None) -> Any:
    return lambda: ImagePromptInput(given, messages, processor or made("llava"))


REFUSED: dict[str, Case] = {
    "no message": (refused([]), ValueError, "list of chat messages is empty"),
    "one message": (
        refused(QUESTION),
        TypeError,
        "or a list of chat messages.*got dict",
    ),
    "several conversations": (
        refused([[QUESTION]]),
        TypeError,
        "a list of chat messages.*got list as message 0",
    ),
    "no role": (
        refused([{"content": "what"}]),
        ValueError,
        "role of message 0 must be one of 'system',.*got None",
    ),
    "an unknown role": (
        refused([QUESTION, message("model", text("a red"))]),
        ValueError,
        "role of message 1 must be one of.*got 'model'",
    ),
    "no content": (
        refused([{"role": "user"}]),
        TypeError,
        "content of message 0 must be a string or a list of parts.*got NoneType",
    ),
    "a part that is a string": (
        refused([{"role": "user", "content": ["what"]}]),
        TypeError,
        "A part of message 0 must be a dict.*got str",
    ),
    "a part without a type": (
        refused([message("user", {"text": "what"})]),
        ValueError,
        "type of a part of message 0 must be 'text' or 'image', got None",
    ),
    "a video": (
        refused([message("user", {"type": "video", "video": "cat.mp4"})]),
        ValueError,
        "'text' or 'image', got 'video'. Only images and texts",
    ),
    "a text part without a text": (
        refused([message("user", image(), {"type": "text"})]),
        TypeError,
        "text part of message 0 must hold a string.*got NoneType",
    ),
    "an image as base64": (
        refused([message("user", {"type": "image", "base64": "iVBO"})]),
        ValueError,
        "given as base64. Decode it",
    ),
    "an image twice": (
        refused([message("user", {"type": "image", "image": FIRST, "path": "a.png"})]),
        ValueError,
        "must hold one image, got several",
    ),
    "an image's address": (
        refused([message("user", image("http://a.org/cat.png"))], None),
        ValueError,
        "is the address 'http://a.org/cat.png'",
    ),
    "an address of other interfaces": (
        refused(
            [
                message(
                    "user",
                    {"type": "image_url", "image_url": {"url": "data:image/png;b,"}},
                )
            ],
            None,
        ),
        ValueError,
        "is the address 'data:image/png;b,'",
    ),
    "no image for a part": (
        refused([QUESTION], None),
        ValueError,
        "1 image parts, 1 of them without an image, but 0 images are given",
    ),
    "more images than parts": (
        refused([QUESTION], [FIRST, SECOND]),
        ValueError,
        "1 of them without an image, but 2 images are given",
    ),
    "an image that is already inside": (
        refused([message("user", image(FIRST), text("what"))], FIRST),
        ValueError,
        "0 of them without an image, but 1 images are given",
    ),
    "no part for the image": (
        refused([message("user", text("what"))]),
        ValueError,
        "placeholder '<image>' 0 times, but the number of images is 1. Write a part",
    ),
    "no image at all": (
        refused([message("user", text("what"))], None),
        ValueError,
        "There is no image",
    ),
    "a placeholder beside the part": (
        refused([message("user", image(), text("<image> what"))]),
        ValueError,
        "placeholder '<image>' 2 times, but the number of images is 1",
    ),
    "a template that fails": (
        refused([QUESTION], FIRST, failing_template(llava_processor(CROP))),
        ValueError,
        "chat template of LlavaProcessor does not take these messages: Roles must",
    ),
    "a template without the role": (
        refused(
            [message("system", text("a red circle")), QUESTION],
            FIRST,
            template_without_system(llava_processor(CROP)),
        ),
        ValueError,
        "leaves out a text of message 0 .role 'system'.: 'a red circle'",
    ),
    "a template that takes only parts": (
        refused([QUESTION, {"role": "user", "content": "what is left ?!"}]),
        ValueError,
        "leaves out a text of message 1.*contents only as a list of parts",
    ),
    "the beginning of an answer without a text": (
        refused([QUESTION, message("assistant", image())], [FIRST, SECOND]),
        ValueError,
        "does not take these messages: continue_final_message",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_other_messages_are_refused(case: Case) -> None:
    call, error, words = case
    with pytest.raises(error, match=words) as raised:
        call()
    assert type(raised.value) is error


@pytest.mark.parametrize("name", PLAIN_PROCESSORS)
def test_families_without_a_chat_template_take_no_messages(name: str) -> None:
    processor = PLAIN_PROCESSORS[name]()
    with pytest.raises(ValueError, match="has no chat template, so chat messages"):
        ImagePromptInput(Image.new("RGB", (40, 30)), [QUESTION], processor)
