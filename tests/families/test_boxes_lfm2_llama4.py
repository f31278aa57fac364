"""LFM2-VL and Llama 4, whose image processors need torchvision."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.lfm2_llama4 import lfm2_vl, llama4
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.idefics3_gemma_processors import (
    special_tokenizer,
    template_with,
    TILE,
)
from tests.helpers.tiny_models import IMAGE_TOKEN
from torch import nn, Tensor

pytest.importorskip("torchvision")

TOKEN_PIXELS = 16
# Bilinear, and rounded to whole grey levels only at the end.
SUPPORT = 1.0
SHAPES = ((48, 48), (30, 120), (120, 30), (70, 100), (401, 190), (900, 1400))


@pytest.fixture(scope="module")
def silent_lfm2() -> nn.Module:
    return silence_vision_attention(lfm2_vl(0, "sdpa"))


@pytest.fixture(scope="module")
def silent_llama4() -> nn.Module:
    model = llama4(0, "sdpa")
    return silence_vision_attention(model, "vision_model", "self_attn.o_proj")


def lfm2_processor(**settings: Any) -> Any:
    from transformers import Lfm2VlProcessor
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import (
        Lfm2VlImageProcessor,
    )

    marks = [f"<|img_row_{r}_col_{c}|>" for r in range(1, 5) for c in range(1, 5)]
    marks += ["<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    ids = {mark: 40 + index for index, mark in enumerate(marks)}
    tokenizer = special_tokenizer(ids | {"<image>": IMAGE_TOKEN}, image_token="<image>")
    image_processor = Lfm2VlImageProcessor(
        **{
            "tile_size": TILE,
            "encoder_patch_size": 8,
            "min_image_tokens": 4,
            "max_image_tokens": 12,
            "max_tiles": 4,
            **settings,
        }
    )
    template = template_with("<image>")
    return Lfm2VlProcessor(image_processor, tokenizer, chat_template=template)


def llama4_processor(**settings: Any) -> Any:
    from transformers import Llama4Processor
    from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor

    marks = ["image", "image_start", "image_end", "tile_x_separator"]
    marks += ["tile_y_separator"]
    ids = {f"<|{mark}|>": 40 + index for index, mark in enumerate(marks)}
    return Llama4Processor(
        Llama4ImageProcessor(
            **{"size": {"height": TILE, "width": TILE}, "max_patches": 6, **settings}
        ),
        special_tokenizer(ids | {"<|patch|>": IMAGE_TOKEN}),
        patch_size=8,
        chat_template=template_with("<|image|>"),
    )


def lfm2_features(model: Any) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
        known = {name: inputs[name] for name in names}
        return torch.cat(model.get_image_features(**known).pooler_output)

    return features


def llama4_features(model: Any) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        pixels = inputs["pixel_values"].float()
        every = model.get_image_features(pixels).last_hidden_state
        return torch.flatten(every, 0, 1)

    return features


def checked(inp: ImagePromptInput, features: Callable[[Any], Tensor]) -> None:
    blocks = random_blocks(inp.image.height, inp.image.width, 10)
    report = block_report(inp, blocks, features, TOKEN_PIXELS, SUPPORT)
    check(report)
    assert report.covering.any(1).all(), "no token is said to see a block"
    assert not report.changed.all(1).all(), "every block reaches every token"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_thumbnail": False}, {"do_image_splitting": False}],
    ids=str,
)
def test_lfm2_vl(
    silent_lfm2: nn.Module, settings: dict[str, Any], shape: tuple[int, int]
) -> None:
    processor = lfm2_processor(**settings)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, silent_lfm2)
    checked(inp, lfm2_features(silent_lfm2))


@pytest.mark.parametrize("shape", [*SHAPES, (7, 5)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"resize_to_max_canvas": True}], ids=str)
def test_llama4(
    silent_llama4: nn.Module, settings: dict[str, Any], shape: tuple[int, int]
) -> None:
    processor = llama4_processor(**settings)
    inp = ImagePromptInput(dark_image(*shape), "is", processor, silent_llama4)
    checked(inp, llama4_features(silent_llama4))


@pytest.mark.parametrize("family", ["lfm2", "llama4"])
def test_two_adjacent_images(
    family: str, silent_lfm2: nn.Module, silent_llama4: nn.Module
) -> None:
    model = silent_lfm2 if family == "lfm2" else silent_llama4
    processor = lfm2_processor() if family == "lfm2" else llama4_processor()
    images = [dark_image(60, 200), dark_image(90, 40)]
    both = ImagePromptInput(images, "is", processor, model)
    singles = [ImagePromptInput(image, "is", processor, model) for image in images]
    expected = [view.rectangle for inp in singles for view in inp.layout.views]
    assert [view.rectangle for view in both.layout.views] == expected
    config: Any = model.config
    for known in ({"config": config}, {"processor": processor}):
        without = adapter_for_config(config).layout(
            both.to_model_input(), both.layout.num_tokens, image_sizes=None, **known
        )
        assert not without.is_located
        assert [(v.name, v.grid, v.start, v.image) for v in without.views] == [
            (v.name, v.grid, v.start, v.image) for v in both.layout.views
        ]
