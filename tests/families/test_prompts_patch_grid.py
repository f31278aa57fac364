"""Prompts of Qwen-VL, GLM-4V, VideoLLaMA 3 and Pixtral hold the tokens they should."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from tests.families.cases import patch_grid, pixtral
from tests.helpers.blocks import dark_image, painted
from tests.helpers.patch_grid_processors import CLASSES, grid_processor
from tests.helpers.processors import word_tokenizer
from tests.helpers.tiny_models import IMAGE_TOKEN
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil,
)
from transformers.utils import is_torchvision_available

QUESTION = "what is in the image ?"
SHAPES = ((48, 64), (130, 33), (7, 20), (400, 1500))
SMALL, WIDE = (48, 48), (40, 90)

families = pytest.mark.parametrize(
    "family",
    [
        *CLASSES,
        *(
            pytest.param(
                family,
                marks=pytest.mark.skipif(
                    not is_torchvision_available(),
                    reason="PixtralProcessor needs torchvision",
                ),
            )
            for family in ("pixtral", "mistral3")
        ),
    ],
)


def pixtral_processor(family: str) -> Any:
    from transformers import PixtralProcessor

    return PixtralProcessor(
        image_processor=PixtralImageProcessorPil(size={"longest_edge": 112}),
        tokenizer=word_tokenizer(),
        patch_size=pixtral.PATCH,
        spatial_merge_size=pixtral.MERGE[family],
        chat_template=grid_processor("qwen2_vl").chat_template,
        image_token="<image>",
        image_break_token=f"word{pixtral.IMAGE_BREAK}",
        image_end_token=f"word{pixtral.IMAGE_END}",
    )


def made(family: str) -> tuple[Any, Any]:
    """Model and processor."""
    if family in pixtral.VARIANTS:
        return pixtral.build(family), pixtral_processor(family)
    return patch_grid.build(family), grid_processor(family)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@families
def test_a_question_becomes_the_prompt_of_the_family(
    family: str, shape: tuple[int, int]
) -> None:
    model, processor = made(family)
    inp = ImagePromptInput(dark_image(*shape), QUESTION, processor, model)
    conversation = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": QUESTION}],
        }
    ]
    assert inp.prompt == processor.apply_chat_template(
        conversation, add_generation_prompt=True
    )
    counts = processor._get_num_multimodal_tokens(image_sizes=[shape])
    expected = counts["num_image_tokens"][0]
    (view,) = inp.layout.views
    if family in pixtral.VARIANTS:
        # The processor counts the tokens at the ends of the rows, too.
        expected -= view.grid[0]
    ids = inp.to_model_input()["input_ids"]
    assert int((ids == IMAGE_TOKEN).sum()) == inp.layout.num_tokens == expected
    assert view.num_tokens == expected
    assert view.rectangle == (0.0, 0.0, *map(float, shape))
    # The same prompt, and the same places, if only the processor is known.
    assert ImagePromptInput(inp.image, inp.prompt, processor).layout == inp.layout


@families
def test_inputs_without_the_original_image_have_the_same_grid(family: str) -> None:
    model, processor = made(family)
    inp = ImagePromptInput(dark_image(*WIDE), QUESTION, processor, model)
    method = VLMAttribution(LayerDexAR(model))
    given = method.attribute(dict(inp.to_model_input()), target=[5, 6])
    (view,), (expected,) = given.layout.views, inp.layout.views
    assert view.rectangle is None
    assert (view.grid, view.start) == (expected.grid, expected.start)
    assert expected.grid[0] != expected.grid[1]
    known = method.attribute(inp, target=[5, 6])
    assert torch.equal(given.token_attr, known.token_attr)


def embedded(model: Any, inputs: Any) -> torch.Tensor:
    """The text model's input at every position, ``(tokens, hidden size)``."""
    seen: list[torch.Tensor] = []
    layer = model.get_decoder().layers[0]
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return seen[0][0]


@pytest.mark.parametrize("order", [(SMALL, WIDE), (WIDE, SMALL)], ids=str)
@families
def test_two_images_in_a_row(
    family: str, order: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    """Each token belongs to the image whose change it notices."""
    model, processor = made(family)
    images = [dark_image(*shape) for shape in order]
    inp = ImagePromptInput(images, QUESTION, processor, model)
    counts = processor._get_num_multimodal_tokens(image_sizes=list(order))
    expected = counts["num_image_tokens"]
    views = inp.layout.views
    if family in pixtral.VARIANTS:
        expected = [n - view.grid[0] for n, view in zip(expected, views)]
    assert [view.num_tokens for view in views] == expected
    assert [view.image for view in views] == [0, 1]
    assert [view.start for view in views] == [0, expected[0]]
    keys = (inp.to_model_input()["input_ids"][0] == IMAGE_TOKEN).nonzero()[:, 0]
    plain = embedded(model, inp.to_model_input())[keys]
    for index, shape in enumerate(order):
        changed_images = list(images)
        changed_images[index] = painted(images[index], (0, 0, *shape))
        changed = embedded(model, inp.processor_fn(changed_images))[keys]
        noticed = (changed - plain).abs().amax(1) > 1e-5 * plain.abs().max()
        is_of_image = torch.zeros_like(noticed)
        is_of_image[views[index].tokens] = True
        assert torch.equal(noticed, is_of_image)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target=[5, 6])
    assert result.token_attr.shape == (2, sum(expected))


def test_two_images_without_text_between_them() -> None:
    """Without a start token between them, their numbers of tokens tell them apart."""
    model, processor = made("video_llama_3")
    images = [dark_image(*SMALL), dark_image(*WIDE)]
    prompt = "<image><image> what is ?"
    inp = ImagePromptInput(images, prompt, processor, model)
    assert inp.prompt == prompt
    assert [view.grid for view in inp.layout.views] == [(6, 6), (5, 11)]
    keys = (inp.to_model_input()["input_ids"][0] == IMAGE_TOKEN).nonzero()[:, 0]
    assert (keys.diff() == 1).all()


MESSAGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "image_grid_thw describes 1 images": lambda inputs: inputs.update(
        image_grid_thw=inputs["image_grid_thw"][:1]
    ),
    "no 'image_grid_thw'": lambda inputs: inputs.pop("image_grid_thw"),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_grids_that_are_missing_are_named(message: str) -> None:
    model, processor = made("qwen2_vl")
    images = [dark_image(*SMALL), dark_image(*WIDE)]
    inputs = dict(ImagePromptInput(images, QUESTION, processor).to_model_input())
    MESSAGES[message](inputs)
    with pytest.raises(ValueError, match=message):
        VLMAttribution(LayerDexAR(model)).attribute(inputs, target=[5])
