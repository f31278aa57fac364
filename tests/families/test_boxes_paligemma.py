"""PaliGemma's tokens see exactly the pixels of their boxes, through its processor."""

from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.paligemma import build
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.plain_prompt_processors import paligemma_processor
from torch import nn, Tensor

SHAPES = ((48, 48), (33, 130), (130, 33), (7, 5), (5, 12), (1500, 400), (400, 1500))


@pytest.fixture(scope="module", name="silent_model")
def _silent_model() -> nn.Module:
    return silence_vision_attention(build(1, 0, "sdpa"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    silent_model: Any, shape: tuple[int, int]
) -> None:
    def features(inputs: Any) -> Tensor:
        output: Tensor = silent_model.get_image_features(inputs["pixel_values"])[1]
        return output[0]

    inp = ImagePromptInput(
        dark_image(*shape), "what", paligemma_processor(), silent_model
    )
    report = block_report(inp, random_blocks(*shape, 10), features)
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()


def test_places_without_the_model_or_without_the_image() -> None:
    """Facts come from the processor, or from the model and its inputs alone."""
    model, processor = build(1, 0, "sdpa"), paligemma_processor()
    image = dark_image(40, 64)
    with_model = ImagePromptInput(image, "what", processor, model)
    without = ImagePromptInput(image, "what", processor)
    assert without.layout == with_model.layout
    bare = adapter_for_config(model.config).layout(
        with_model.to_model_input(), 16, image_sizes=None, config=model.config
    )
    assert [view.grid for view in bare.views] == [(4, 4)]
    assert bare.boxes() is None
    assert torch.equal(bare.placed, with_model.layout.placed)
