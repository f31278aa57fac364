"""Prompts of families without a chat template, as their own processors make them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from tests.families.cases import cross_attention, early_fusion, paligemma
from tests.helpers.blocks import dark_image
from tests.helpers.plain_prompt_processors import (
    chameleon_processor,
    florence2_processor,
    fuyu_processor,
    mllama_processor,
    paligemma_processor,
)
from tests.helpers.tiny_models import IMAGE_TOKEN
from tokenizers.processors import TemplateProcessing
from torch import nn

QUESTION = "what is in the image ?"
Builder = Callable[[], nn.Module]
FAMILIES: dict[str, tuple[Callable[[], Any], Builder]] = {
    "paligemma": (paligemma_processor, lambda: paligemma.build(1, 0, "sdpa")),
    "florence2": (
        florence2_processor,
        lambda: cross_attention.build_florence2(0, "sdpa"),
    ),
    "mllama": (mllama_processor, lambda: cross_attention.build_mllama(0, "sdpa")),
    "fuyu": (fuyu_processor, lambda: early_fusion.build_fuyu(0, "sdpa")),
    "chameleon": (
        chameleon_processor,
        lambda: early_fusion.build_chameleon(False, 0, "sdpa"),
    ),
}
PROMPTS = {
    "paligemma": "<image>" + QUESTION,
    "florence2": QUESTION,
    "mllama": "<|image|>" + QUESTION,
    "fuyu": QUESTION,
    "chameleon": "<image>" + QUESTION,
}
# Image tokens (or keys) of an image of 40 x 30 pixels; of Mllama's, four tiles.
NUM_TOKENS = {
    "paligemma": 16,
    "florence2": 17,
    "mllama": 40,
    "fuyu": 7 * 5,
    "chameleon": 16,
}
TAKE_SEVERAL = ("paligemma", "mllama", "chameleon")

every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_a_question_becomes_the_familys_prompt(family: str) -> None:
    make_processor, build = FAMILIES[family]
    processor, model = make_processor(), build()
    inp = ImagePromptInput(dark_image(40, 30), QUESTION, processor, model)
    assert inp.prompt == PROMPTS[family]
    assert inp.layout.num_tokens == NUM_TOKENS[family]
    made = inp.to_model_input()
    assert "labels" not in made
    words = processor.tokenizer.convert_ids_to_tokens(made["input_ids"][0])
    asked = [word for word in words if word in QUESTION.split()]
    assert asked == QUESTION.split()
    if family != "mllama":
        assert int((made["input_ids"] == IMAGE_TOKEN).sum()) == NUM_TOKENS[family]
    answer = VLMAttribution(LayerDexAR(model), processor).attribute(
        inp, gen_args={"max_new_tokens": 3}
    )
    given = VLMAttribution(LayerDexAR(model), processor).attribute(
        inp, answer.target_ids
    )
    torch.testing.assert_close(answer.token_attr, given.token_attr, rtol=1e-5, atol=0)
    assert answer.token_attr.shape[1] == len(inp.layout.placed)


@pytest.mark.parametrize("family", ["paligemma", "florence2", "chameleon"])
def test_image_tokens_are_as_many_as_the_processor_says(family: str) -> None:
    processor = FAMILIES[family][0]()
    inp = ImagePromptInput(dark_image(40, 30), QUESTION, processor)
    (count,) = processor._get_num_multimodal_tokens([(40, 30)]).num_image_tokens
    # Chameleon's count includes the two tokens around the image.
    around = 2 if family == "chameleon" else 0
    assert inp.layout.num_tokens == count - around


@pytest.mark.parametrize("family", TAKE_SEVERAL)
def test_two_adjacent_images(family: str) -> None:
    make_processor, build = FAMILIES[family]
    processor, model = make_processor(), build()
    images = [dark_image(40, 30), dark_image(24, 24, seed=1)]
    inp = ImagePromptInput(images, QUESTION, processor, model)
    assert inp.prompt == 2 * processor.image_token + QUESTION
    assert inp.layout.num_tokens == 2 * NUM_TOKENS[family]
    assert inp.layout.num_images == 2
    for index, image in enumerate(images):
        single = ImagePromptInput(image, QUESTION, processor, model)
        alone, _ = inp.layout.of_image(index)
        expected, _ = single.layout.of_image(0)
        assert alone == expected
    result = VLMAttribution(LayerDexAR(model), processor).attribute(
        inp, gen_args={"max_new_tokens": 2}
    )
    assert result.token_attr.shape[1] == len(inp.layout.placed)


@pytest.mark.parametrize("family", TAKE_SEVERAL)
def test_images_between_text(family: str) -> None:
    make_processor, build = FAMILIES[family]
    processor, model = make_processor(), build()
    images = [dark_image(40, 30), dark_image(24, 24, seed=1)]
    mark = processor.image_token
    prompt = f"{mark} a red circle {mark} what is left ?"
    inp = ImagePromptInput(images, prompt, processor, model)
    assert inp.prompt == prompt
    assert inp.layout.num_images == 2
    assert inp.layout.num_tokens == 2 * NUM_TOKENS[family]


@pytest.mark.parametrize("family", ["florence2", "fuyu"])
def test_a_second_image_is_refused(family: str) -> None:
    make_processor, build = FAMILIES[family]
    with pytest.raises(ValueError, match="takes one image per prompt, got 2"):
        ImagePromptInput([dark_image(40, 30)] * 2, QUESTION, make_processor(), build())


def test_a_chat_template_writes_the_first_token_once() -> None:
    processor = mllama_processor()
    processor.chat_template = (
        "<s>{% for part in messages[0]['content'] %}"
        "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}"
    )
    # As Llama's own tokenizer does with any text.
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    model = cross_attention.build_mllama(0, "sdpa")
    inp = ImagePromptInput(dark_image(40, 30), QUESTION, processor, model)
    assert inp.prompt == "<s><|image|>" + QUESTION
    ids = inp.to_model_input()["input_ids"][0].tolist()
    assert ids[:2] == [1, IMAGE_TOKEN] and ids.count(1) == 1
