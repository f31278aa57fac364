"""Image tokens of Qwen-VL, GLM-4V and VideoLLaMA 3 see the pixels of their boxes."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.patch_grid import build, MERGE, PATCH
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.patch_grid_processors import CLASSES, grid_processor
from torch import Tensor

SHAPES = ((48, 48), (64, 40), (33, 130), (130, 33), (80, 20), (5, 12), (7, 5))
HUGE_SHAPES = ((1500, 400), (400, 1500))
OUTPUTS = {"video_llama_3": ("vision_model", "self_attn.out_proj")}


@lru_cache(maxsize=1)
def silent_model(family: str) -> Any:
    tower, output = OUTPUTS.get(family, ("visual", "attn.proj"))
    return silence_vision_attention(build(family), tower, output)


def image_features(model: Any) -> Callable[[Any], Tensor]:
    """All features of each token that the text model gets, in any layer."""

    def features(inputs: Any) -> Tensor:
        names = ("pixel_values", "image_grid_thw", "image_merge_sizes")
        made = model.get_image_features(
            **{name: inputs[name] for name in names if name in inputs}
        )
        every_layer = [made.pooler_output, *(made.get("deepstack_features") or ())]
        return torch.cat([torch.cat(tuple(layer)) for layer in every_layer], dim=1)

    return features


def report_of(family: str, shape: tuple[int, int], merge: int, **settings: Any) -> Any:
    model = silent_model(family)
    processor = grid_processor(family, **settings)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    blocks = random_blocks(*shape, 10)
    return block_report(inp, blocks, image_features(model), PATCH * merge)


@pytest.mark.parametrize("shape", SHAPES + HUGE_SHAPES, ids=str)
@pytest.mark.parametrize("family", CLASSES)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    family: str, shape: tuple[int, int]
) -> None:
    report = report_of(family, shape, merge=1 if family == "video_llama_3" else MERGE)
    check(report)
    assert report.covering.any(1).all()
    assert not report.changed.all()


@pytest.mark.parametrize("shape", [(64, 40), (33, 130)], ids=str)
def test_blocks_where_images_of_video_llama_are_merged(shape: tuple[int, int]) -> None:
    report = report_of("video_llama_3", shape, merge=2, merge_size=2)
    check(report)
    assert report.covering.any(1).all()
    assert not report.changed.all()


@pytest.mark.parametrize("family", ["qwen2_vl", "glm4v", "video_llama_3"])
def test_blocks_of_images_that_are_not_resized(family: str) -> None:
    merge = 1 if family == "video_llama_3" else MERGE
    report = report_of(family, (64, 96), merge, do_resize=False)
    check(report)
    # Without resampling, exactly the tokens that hold the block.
    assert torch.equal(report.covering, report.changed)


@pytest.mark.parametrize("family", CLASSES)
def test_patches_of_two_images_belong_to_the_tokens_that_notice_them(
    family: str,
) -> None:
    model, processor = silent_model(family), grid_processor(family)
    images = [dark_image(48, 64), dark_image(70, 40)]
    inp = ImagePromptInput(images, "is", processor, model)
    inputs, features = dict(inp.to_model_input()), image_features(model)
    adapter = adapter_for_config(model.config)
    token = adapter.token_of_pixel_input(inputs, inp.layout, model.config)
    token = token.expand_as(inputs["pixel_values"])[:, 0]
    with torch.no_grad():
        plain = features(inputs)
        for patch in range(0, len(token), 5):
            pixels = inputs["pixel_values"].clone()
            pixels[patch] += 1.0
            changed = features({**inputs, "pixel_values": pixels}) - plain
            noticed = changed.abs().amax(1) > 1e-5 * plain.abs().max()
            assert noticed.nonzero()[:, 0].tolist() == [int(token[patch])]
