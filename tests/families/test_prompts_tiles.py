"""Prompts of the families that cut images into tiles, with one image and with two."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config, adapter_for_processor
from tests.families.cases import tiled_canvas, tiles
from tests.helpers import tile_processors
from tests.helpers.blocks import dark_image
from torch import nn

PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava_next": tile_processors.llava_next_processor,
    "llava_next_video": tile_processors.llava_next_video_processor,
    "llava_onevision": tile_processors.llava_onevision_processor,
    "internvl": tile_processors.internvl_processor,
    "qianfan_ocr": tile_processors.qianfan_ocr_processor,
    "aya_vision": tile_processors.aya_vision_processor,
    "cohere2_vision": tile_processors.cohere2_vision_processor,
    "ovis2": tile_processors.ovis2_processor,
}
# Tokens that the processor counts as the image's, but that no part of it becomes:
# around it, and before each of the tiles but the last, which is the whole.
FRAMES = {
    "internvl": (2, 0),
    "qianfan_ocr": (2, 0),
    "aya_vision": (3, 1),
    "cohere2_vision": (3, 1),
}
SHAPES = ((48, 48), (50, 71), (20, 80), (130, 33), (7, 5), (900, 700))

every_variant = pytest.mark.parametrize("variant", PROCESSORS)


@lru_cache
def model_of(variant: str) -> nn.Module:
    return (tiled_canvas if variant in tiled_canvas.MAKERS else tiles).build(variant)


def placeholder_of(processor: Any) -> str:
    return adapter_for_processor(processor).placeholder(processor)


@every_variant
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_question_becomes_a_whole_prompt(
    variant: str, shape: tuple[int, int]
) -> None:
    processor = PROCESSORS[variant]()
    model: Any = model_of(variant)
    inp = ImagePromptInput(dark_image(*shape), "what is red ?", processor, model)
    placeholder = "<IMG_CONTEXT>" if variant == "internvl" else "<image>"
    assert inp.prompt == f"USER: {placeholder}\nwhat is red ? ASSISTANT:"
    inputs = inp.to_model_input()
    is_image = inputs["input_ids"] == model.config.image_token_id
    assert inp.layout.num_tokens == int(is_image.sum())
    if variant == "ovis2":
        expected = len(inputs["pixel_values"]) * processor.image_seq_length
    else:
        # LLaVA-NeXT-Video has the tokens of LLaVA-NeXT, but does not count them.
        counting = PROCESSORS[variant.removesuffix("_video")]()
        counts = counting._get_num_multimodal_tokens(image_sizes=[shape])
        around, before_tile = FRAMES.get(variant, (0, 0))
        (num_tiles,) = counts.num_image_patches
        (expected,) = counts.num_image_tokens
        expected -= around + before_tile * (num_tiles - 1)
    assert inp.layout.num_tokens == expected
    by_processor = ImagePromptInput(dark_image(*shape), "what is red ?", processor)
    assert by_processor.layout == inp.layout


@every_variant
def test_a_whole_prompt_is_taken_as_it_is(variant: str) -> None:
    processor = PROCESSORS[variant]()
    text = f"is {placeholder_of(processor)} red"
    inp = ImagePromptInput(dark_image(50, 71), text, processor, model_of(variant))
    assert inp.prompt == text
    ids = inp.to_model_input()["input_ids"][0].tolist()
    words = processor.tokenizer.convert_ids_to_tokens(ids)
    assert words[0] == "is" and words[-1] == "red"


@every_variant
def test_two_images_that_follow_each_other(variant: str) -> None:
    processor, model = PROCESSORS[variant](), model_of(variant)
    images = [dark_image(50, 71), dark_image(130, 33, seed=1)]
    text = f"is {placeholder_of(processor)}{placeholder_of(processor)} red"
    inp = ImagePromptInput(images, text, processor, model)
    assert inp.layout.num_images == 2
    with torch.no_grad():
        model(**inp.to_model_input())
    if variant == "llava_onevision":
        return  # Several images are padded to squares, and their boxes tested there.
    for index, image in enumerate(images):
        alone = ImagePromptInput(
            image, f"is {placeholder_of(processor)} red", processor, model
        )
        ours, _ = inp.layout.of_image(index)
        assert [view.rectangle for view in ours.views] == [
            view.rectangle for view in alone.layout.views
        ]
        assert len(ours.placed) == len(alone.layout.placed)


@every_variant
def test_an_answer_about_two_images_is_explained(variant: str) -> None:
    processor, model = PROCESSORS[variant](), model_of(variant)
    images = [dark_image(20, 40), dark_image(40, 20, seed=1)]
    inp = ImagePromptInput(images, "what is left ?", processor, model)
    assert inp.prompt.count(placeholder_of(processor)) == 2
    result = VLMAttribution(LayerDexAR(model)).attribute(inp, target=[20, 30])
    assert result.token_attr.shape == (2, len(inp.layout.placed))
    assert (result.token_attr > 0).any()


def test_onevision_inputs_of_images_that_are_not_of_one_prompt() -> None:
    """A flat list of images is taken for prompts of one image each: all are tiled."""
    processor, model = PROCESSORS["llava_onevision"](), model_of("llava_onevision")
    images = [dark_image(50, 71), dark_image(130, 33)]
    inputs = processor(
        images=images, text="<image> is <image> red", return_tensors="pt"
    )
    config: Any = model.config
    num_tokens = int((inputs["input_ids"] == config.image_token_id).sum())
    layout = adapter_for_config(config).layout(
        inputs,
        num_tokens,
        image_sizes=[(50, 71), (130, 33)],
        processor=processor,
        config=config,
    )
    assert [view.name for view in layout.views] == ["global", "tile"] * 2
    unknown = adapter_for_config(config).layout(
        inputs, num_tokens, image_sizes=None, config=config
    )
    assert unknown.views == layout.views
