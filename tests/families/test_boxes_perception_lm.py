"""Perception LM: boxes of the copy and of the tiles, through its own processor."""

from functools import lru_cache
from typing import Any
from unittest import mock

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config
from tests.families.cases import tiles
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.tile_processors import chat_template, tokenizer
from torch import nn, Tensor
from transformers import PerceptionLMProcessor
from transformers.processing_utils import ProcessorMixin

SHAPES = (
    (48, 48),
    (50, 71),
    (20, 80),
    (130, 33),
    (64, 65),
    (7, 5),
    (5, 12),
    (31, 77),
    (1500, 400),
    (700, 900),
)


def processor_of(**settings: Any) -> Any:
    """Its image processor can't be imported without torchvision."""
    pytest.importorskip("torchvision", reason="the image processor needs torchvision")
    from transformers.models.perception_lm.image_processing_perception_lm import (
        PerceptionLMImageProcessor,
    )

    named = {"image_token": "<image>", "video_token": "<video>"}
    with mock.patch.object(
        ProcessorMixin, "check_argument_for_proper_class", lambda *_: object
    ):
        return PerceptionLMProcessor(
            None,
            PerceptionLMImageProcessor(
                **{"tile_size": tiles.TILE, "max_num_tiles": 6, **settings}
            ),
            tokenizer("<image>", ("<video>",), named),
            patch_size=tiles.PATCH,
            pooling_ratio=tiles.MERGE,
            chat_template=chat_template("<image>"),
        )


@lru_cache
def silent_model() -> nn.Module:
    return silence_vision_attention(tiles.build("perception_lm"), output=OUTPUT)


# Of the ViT that stands for timm's tower.
OUTPUT = "attention.o_proj"


def features(inputs: Any) -> Tensor:
    model: Any = silent_model()
    found: Tensor = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    return found.flatten(0, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    shape: tuple[int, int],
) -> None:
    processor = processor_of()
    inp = ImagePromptInput(dark_image(*shape), "is", processor, silent_model())
    # On tensors, resampling rounds to whole levels after each of two directions.
    report = block_report(inp, random_blocks(*shape, 10), features)
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()
    names = [view.name for view in inp.layout.views]
    assert names == ["global"] + ["tile"] * (len(names) - 1)
    if shape == (7, 5):
        assert len(names) >= 2
    counts = processor._get_num_multimodal_tokens(image_sizes=[shape])
    assert inp.layout.num_tokens == counts.num_image_tokens[0]
    by_processor = ImagePromptInput(dark_image(*shape), "is", processor)
    assert by_processor.layout == inp.layout


@pytest.mark.parametrize(
    "settings", [{"max_num_tiles": 1}, {"max_num_tiles": 4}], ids=str
)
@pytest.mark.parametrize("shape", [(50, 71), (130, 33)], ids=str)
def test_other_numbers_of_tiles(
    shape: tuple[int, int], settings: dict[str, int]
) -> None:
    processor = processor_of(**settings)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, silent_model())
    assert 2 <= len(inp.layout.views) <= 1 + settings["max_num_tiles"]
    check(block_report(inp, random_blocks(*shape, 10), features))


def test_a_single_picture() -> None:
    processor = processor_of(vision_input_type="vanilla")
    inp = ImagePromptInput(dark_image(50, 71), "is", processor, silent_model())
    assert [view.name for view in inp.layout.views] == ["full"]
    check(block_report(inp, random_blocks(50, 71, 10), features))


def test_two_images_with_as_many_tiles() -> None:
    processor, model = processor_of(), silent_model()
    images = [dark_image(50, 71), dark_image(51, 72, seed=1)]
    inp = ImagePromptInput(images, "what is left ?", processor, model)
    assert inp.layout.num_images == 2
    for index, image in enumerate(images):
        alone = ImagePromptInput(image, "what is left ?", processor, model)
        assert inp.layout.of_image(index)[0].views == alone.layout.views
    result = VLMAttribution(LayerDexAR(model)).attribute(inp, target=[20, 30])
    assert result.token_attr.shape == (2, len(inp.layout.placed))


def test_without_the_original_image_the_grids_are_known() -> None:
    config: Any = silent_model().config
    inputs = tiles.inputs("perception_lm", 0, 3)
    layout = adapter_for_config(config).layout(
        inputs, 3 * tiles.TOKENS_OF_TILE, image_sizes=None, config=config
    )
    assert [view.name for view in layout.views] == ["global", "tile", "tile"]
    assert {view.grid for view in layout.views} == {(tiles.SIDE, tiles.SIDE)}
    assert not layout.is_located and layout.num_images == 1
    both = {**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1, 1)}
    both["input_ids"] = torch.cat([inputs["input_ids"]] * 2, dim=1)
    layout = adapter_for_config(config).layout(
        both, 6 * tiles.TOKENS_OF_TILE, image_sizes=None, config=config
    )
    assert layout.num_images == 2
