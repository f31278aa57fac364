"""Prompts of Idefics3, SmolVLM, Gemma 3 and Gemma 4, with one image and with two."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution, VLMForward
from tests.families.cases.gemma import gemma3, gemma4
from tests.families.cases.idefics3 import build
from tests.helpers.blocks import dark_image
from tests.helpers.explained import relative_error
from tests.helpers.idefics3_gemma_processors import (
    gemma3_processor,
    gemma4_processor,
    idefics_processor,
)
from tests.helpers.tiny_models import IMAGE_TOKEN
from torch import nn

MODELS: dict[str, Callable[[], nn.Module]] = {
    "idefics3": partial(build, "idefics3", 0, "sdpa"),
    "smolvlm": partial(build, "smolvlm", 0, "sdpa"),
    "gemma3": partial(gemma3, 0, "sdpa"),
    "gemma3_crops": partial(gemma3, 0, "sdpa"),
    "gemma4": partial(gemma4, "gemma4", 0, "sdpa"),
}
PROCESSORS: dict[str, Callable[[], Any]] = {
    "idefics3": idefics_processor,
    "smolvlm": partial(idefics_processor, "smolvlm"),
    "gemma3": gemma3_processor,
    "gemma3_crops": partial(gemma3_processor, pan_and_scan=True),
    "gemma4": gemma4_processor,
}
PLACEHOLDERS = {"gemma3": "<boi>", "gemma3_crops": "<boi>"}
SIZES = ((60, 200), (90, 40))
QUESTION = "what is left ?"

every_family = pytest.mark.parametrize("family", list(MODELS))


def own_count(family: str, processor: Any, size: tuple[int, int]) -> int:
    """Image tokens of one image as the processor itself counts them."""
    if family == "gemma3_crops":
        made = processor.image_processor(
            dark_image(*size), **processor.images_kwargs, return_tensors="pt"
        )
        return int(made["pixel_values"].shape[0]) * processor.image_seq_length
    if family in ("idefics3", "smolvlm"):
        made = processor.image_processor.get_number_of_image_patches(*size)
        return max(int(made[0]), 1) * processor.image_seq_len
    counted = processor._get_num_multimodal_tokens(image_sizes=[size])
    return int(counted["num_image_tokens"][0])


@every_family
def test_a_question_becomes_the_whole_prompt(family: str) -> None:
    model, processor = MODELS[family](), PROCESSORS[family]()
    placeholder = PLACEHOLDERS.get(family, "<image>")
    for size in SIZES:
        for known in (model, None):
            inp = ImagePromptInput(dark_image(*size), QUESTION, processor, known)
            assert inp.prompt == f"USER: {placeholder}{QUESTION} ASSISTANT:"
            ids = inp.to_model_input()["input_ids"][0]
            in_prompt = int((ids == IMAGE_TOKEN).sum())
            assert inp.layout.num_tokens == in_prompt
            assert in_prompt == own_count(family, processor, size)
            assert inp.layout.is_located and len(inp.layout.placeless) == 0


@pytest.mark.parametrize("between", [None, "", " left of "])
@every_family
def test_two_images(family: str, between: str | None) -> None:
    model, processor = MODELS[family](), PROCESSORS[family]()
    placeholder = PLACEHOLDERS.get(family, "<image>")
    images = [dark_image(*size) for size in SIZES]
    prompt = QUESTION
    if between is not None:
        prompt = f"USER: {placeholder}{between}{placeholder} what is ? ASSISTANT:"
    inp = ImagePromptInput(images, prompt, processor, model)
    assert inp.prompt.count(placeholder) == 2
    start = 0
    for index, image in enumerate(images):
        single = ImagePromptInput(image, QUESTION, processor, model).layout
        ours = [view for view in inp.layout.views if view.image == index]
        assert [(v.name, v.grid, v.rectangle, v.start - start) for v in ours] == [
            (v.name, v.grid, v.rectangle, v.start) for v in single.views
        ]
        start += single.num_tokens
    assert start == inp.layout.num_tokens
    assert inp.layout.image_sizes == SIZES


@every_family
def test_a_generated_answer_about_two_images(family: str) -> None:
    model, processor = MODELS[family](), PROCESSORS[family]()
    images = [dark_image(*size) for size in SIZES]
    inp = ImagePromptInput(images, QUESTION, processor, model)
    method = VLMAttribution(LayerDexAR(model), processor)
    result = method.attribute(inp, gen_args={"max_new_tokens": 3, "do_sample": False})
    assert result.token_attr.shape[1] == inp.layout.num_tokens
    given = method.attribute(inp, target=result.target_ids)
    torch.testing.assert_close(
        result.token_log_probs, given.token_log_probs, rtol=1e-4, atol=1e-4
    )
    # As the model itself generates, from all that the processor returns.
    with torch.no_grad():
        logits = model(**inp.to_model_input()).logits[0, -1]
    torch.testing.assert_close(
        result.token_log_probs[0],
        logits.log_softmax(-1)[result.target_ids[0]],
        rtol=1e-4,
        atol=1e-4,
    )


@every_family
def test_captum_may_repeat_the_inputs(family: str) -> None:
    model, processor = MODELS[family](), PROCESSORS[family]()
    inp = ImagePromptInput(dark_image(60, 200), QUESTION, processor, model)
    inputs = dict(inp.to_model_input())
    pixel_values, input_ids = inputs.pop("pixel_values"), inputs.pop("input_ids")
    forward = VLMForward(model)
    attr = IntegratedGradients(forward).attribute(
        pixel_values,
        target=5,
        additional_forward_args=(input_ids, inputs),
        n_steps=2,
    )
    # Its two points, one at a time.
    expected = torch.zeros_like(pixel_values)
    for root, weight in zip(*np.polynomial.legendre.leggauss(2)):
        point = (pixel_values * (1 + root) / 2).requires_grad_()
        logit = forward(point, input_ids, inputs)[0, 5]
        (gradient,) = torch.autograd.grad(logit, point)
        expected += weight / 2 * gradient * pixel_values
    assert relative_error(attr, expected) < 1e-4


@pytest.mark.parametrize("family", ["idefics3", "gemma3", "gemma4"])
def test_an_image_and_tokens_that_do_not_agree_are_refused(family: str) -> None:
    model, processor = MODELS[family](), PROCESSORS[family]()
    inp = ImagePromptInput(dark_image(60, 200), QUESTION, processor, model)
    adapter = LayerDexAR(model).adapter
    with pytest.raises(ValueError, match="image tokens"):
        adapter.layout(
            inp.to_model_input(),
            inp.layout.num_tokens - 1,
            image_sizes=[(60, 200)],
            processor=processor,
            config=model.config,
        )
