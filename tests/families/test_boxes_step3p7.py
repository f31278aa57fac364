"""Step-3.7: boxes of the windows and of the copy, through its own processor."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.helpers.blocks import (
    block_report,
    dark_image,
    overlap,
    random_blocks,
    silence_vision_attention,
    unclipped_boxes,
    within_reach,
)
from tests.helpers.tile_processors import chat_template, tokenizer
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn, Tensor
from transformers import (
    Step3p7Config,
    Step3p7ForConditionalGeneration,
    Step3p7Processor,
)

PATCH, MERGE = 4, 4
TOKEN_PIXELS = PATCH * MERGE
WHOLE, WINDOW = 64, 48
# Thin ones, one of which is padded to a square, and one larger than the largest size.
SHAPES = (
    (48, 48),
    (50, 71),
    (30, 50),
    (130, 33),
    (64, 65),
    (7, 5),
    (5, 30),
    (90, 8),
    (31, 77),
    (200, 40),
    (400, 300),
    (70, 300),
)


def processor_of() -> Any:
    """Its image processor can't be imported without torchvision."""
    pytest.importorskip("torchvision", reason="the image processor needs torchvision")
    from transformers.models.step3p7.image_processing_step3p7 import (
        Step3p7ImageProcessor,
    )

    image_processor = Step3p7ImageProcessor(
        size={"height": WHOLE, "width": WHOLE}, patch_size=WINDOW
    )
    image_processor.max_image_size = 240
    image_processor.vision_patch_size = PATCH
    marks = (
        "<patch_start>",
        "<patch_end>",
        "<patch_newline>",
        "<im_start>",
        "<im_end>",
    )
    return Step3p7Processor(
        image_processor,
        tokenizer("<im_patch>", marks),
        chat_template=chat_template("<im_patch>"),
    )


@lru_cache
def silent_model() -> nn.Module:
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": WHOLE,
        "patch_size": PATCH,
        "mlp_ratio": 1.5,
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "mlp_layer_types": ["dense"],
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Step3p7ForConditionalGeneration(
            Step3p7Config(
                vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN
            )
        )
        roughen(model)
    return silence_vision_attention(model.eval(), "vision_model", "self_attn.out_proj")


def features(inputs: Any) -> Tensor:
    model: Any = silent_model()
    made = {
        name: inputs[name]
        for name in ("pixel_values", "pixel_values_local", "num_local_patches")
        if name in inputs
    }
    return torch.cat(model.get_image_features(**made).pooler_output)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    shape: tuple[int, int],
) -> None:
    """Others may change that are up to three patches below or to the right of them."""
    processor, model = processor_of(), silent_model()
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    blocks = random_blocks(*shape, 10)
    report = block_report(inp, blocks, features, TOKEN_PIXELS)
    assert report.covering.any()
    assert not (report.covering & ~report.changed).any()
    # Each picture is resized twice.
    boxes, reaches = unclipped_boxes(inp.layout, TOKEN_PIXELS, support=4.0)
    seen = boxes.clone()
    seen[:, :2] -= 3 / MERGE * (boxes[:, 2:] - boxes[:, :2])
    for block, changed in zip(blocks, report.changed):
        assert not (changed & ~within_reach(seen, reaches, block)).any()
        assert not (overlap(boxes, block) & ~changed).any()
    names = [view.name for view in inp.layout.views]
    windows = int(inp.to_model_input()["num_local_patches"][0])
    assert names == (["tile"] * windows + ["global"] if windows else ["full"])
    is_padded = processor.image_processor._is_extreme_aspect(*shape)
    last = inp.layout.views[-1].rectangle
    assert last is not None
    assert (last[2:] == (max(shape), max(shape))) == (is_padded or shape[0] == shape[1])
    by_processor = ImagePromptInput(dark_image(*shape), "is", processor)
    assert by_processor.layout == inp.layout


def test_two_images() -> None:
    processor, model = processor_of(), silent_model()
    images = [dark_image(130, 33), dark_image(48, 48, seed=1)]
    inp = ImagePromptInput(images, "what is left ?", processor, model)
    assert inp.layout.num_images == 2
    for index, image in enumerate(images):
        alone = ImagePromptInput(image, "what is left ?", processor, model)
        assert inp.layout.of_image(index)[0].views == alone.layout.views


def plain_inputs(num_windows: int) -> dict[str, Any]:
    """Without text, and without an image processor."""
    num_tokens = 16 + num_windows * 9
    inputs: dict[str, Any] = {
        "input_ids": torch.full((1, num_tokens), IMAGE_TOKEN),
        "pixel_values": torch.zeros(1, 3, WHOLE, WHOLE),
        "num_local_patches": torch.tensor([num_windows]),
    }
    if num_windows:
        inputs["pixel_values_local"] = torch.zeros(num_windows, 3, WINDOW, WINDOW)
    return inputs


def test_without_the_original_image_the_grids_are_known() -> None:
    config: Any = silent_model().config
    adapter = adapter_for_config(config)
    inputs = plain_inputs(3)
    layout = adapter.layout(inputs, 43, image_sizes=None, config=config)
    assert [view.name for view in layout.views] == ["tile"] * 3 + ["global"]
    assert [view.grid for view in layout.views] == [(3, 3)] * 3 + [(4, 4)]
    assert len(features(inputs)) == 43
    with pytest.raises(TypeError, match="sees the image in two inputs"):
        adapter.token_of_pixel_input(inputs, layout, config)
    alone = plain_inputs(0)
    layout = adapter.layout(alone, 16, image_sizes=None, config=config)
    token = adapter.token_of_pixel_input(alone, layout, config)
    assert token.unique().tolist() == list(range(16))
