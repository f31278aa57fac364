"""Image tokens of the other families with one grid see the pixels of their boxes."""

import re
from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs.prompt import read_prompt
from tests.families.cases.patch_grid import MERGE, PATCH
from tests.helpers.blocks import block_report, check, dark_image, random_blocks
from tests.helpers.grid_families import (
    CASE_OF,
    grid_processor,
    image_features,
    KNOWN,
    needs_torchvision,
    silent_model,
)
from transformers.utils import is_torchvision_available

SHAPES = (
    (48, 48),
    (64, 40),
    (33, 130),
    (130, 33),
    (80, 20),
    (21, 43),
    (17, 90),
    (95, 31),
    (500, 130),
    (130, 500),
)
# Muse's processor resamples with Lanczos' kernel.
SUPPORT = {"muse_glimmer": 3.0, "muse_spark": 3.0}

families = pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            family,
            marks=pytest.mark.skipif(
                needs_torchvision(family) and not is_torchvision_available(),
                reason="the image processor needs torchvision",
            ),
        )
        for family in KNOWN
    ],
)


def prompt_input(family: str, *shapes: tuple[int, int]) -> ImagePromptInput:
    images: Any = [dark_image(*shape, seed) for seed, shape in enumerate(shapes)]
    return ImagePromptInput(
        images[0] if len(images) == 1 else images,
        "is",
        grid_processor(family),
        silent_model(family),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@families
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    family: str, shape: tuple[int, int]
) -> None:
    inp = prompt_input(family, shape)
    report = block_report(
        inp,
        random_blocks(*shape, 8),
        image_features(silent_model(family)),
        PATCH * MERGE if family != "gemma4_unified" else 8,
        SUPPORT.get(family, 2.0),
    )
    check(report)
    assert report.covering.any(1).all()
    assert not report.changed.all()


@families
def test_the_places_are_known_without_a_grid(family: str) -> None:
    """From Captum's input and from the processor's plain output, too."""
    inp, model = prompt_input(family, (40, 90)), silent_model(family)
    processor = grid_processor(family)
    (view,) = inp.layout.views
    assert view.grid[0] != view.grid[1]
    # The same places, if only the processor is known.
    assert ImagePromptInput(inp.image, inp.prompt, processor).layout == inp.layout
    captum = ImageMaskInput(inp.image, processor_fn=inp.processor_fn)
    assert read_prompt(captum, model, processor).layout == inp.layout
    plain = dict(inp.to_model_input())
    (unplaced,) = read_prompt(plain, model, None).layout.views
    assert (unplaced.grid, unplaced.start) == (view.grid, view.start)


@families
def test_rows_of_two_images_belong_to_the_tokens_that_notice_them(family: str) -> None:
    inp, model = prompt_input(family, (48, 64), (70, 40)), silent_model(family)
    inputs, features = dict(inp.to_model_input()), image_features(model)
    adapter = adapter_for_config(model.config)
    token = adapter.token_of_pixel_input(inputs, inp.layout, model.config)
    pixels = inputs["pixel_values"]
    rows = pixels.flatten(0, 1) if pixels.dim() == 3 else pixels
    token = token.expand_as(pixels).reshape(len(rows), -1)[:, 0]
    assert set(token.tolist()) - {-1} == set(inp.layout.placed.tolist())
    with torch.no_grad():
        plain = features(inputs)
        for row in range(0, len(rows), 5):
            changed = rows.clone()
            changed[row] += torch.linspace(0, 1, changed[row].numel()).view_as(rows[0])
            made = features({**inputs, "pixel_values": changed.view_as(pixels)})
            noticed = (made - plain).abs().amax(1) > 1e-5 * plain.abs().max()
            expected = [] if token[row] < 0 else [int(token[row])]
            assert noticed.nonzero()[:, 0].tolist() == expected


@pytest.mark.parametrize(
    "family",
    [
        name
        for name in (
            "qwen2_5_omni_thinker",
            "exaone4_5",
            "hyperclovax_vision_v2",
            "muse_glimmer",
            "muse_spark",
            # Without windows:
            "kimi_k25",
            "paddleocr_vl",
        )
        if name in KNOWN
    ],
)
def test_tokens_of_a_vision_layer_are_the_patches_in_the_order_stated(
    family: str,
) -> None:
    model = silent_model(family)
    name, layer = next(
        (name, module)
        for name, module in model.named_modules()
        if re.search(r"vis.*\.(blocks|layers)\.0$", name)
    )
    given = CASE_OF[family].inputs(0, 3)["pixel_values"]
    generator = torch.Generator().manual_seed(0)
    count = 10 * 12 + 4 * 6
    inputs = {
        "pixel_values": torch.randn(count, *given.shape[1:], generator=generator),
        "image_grid_thw": torch.tensor([[1, 10, 12], [1, 4, 6]]),
    }
    order = adapter_for_config(model.config).vision_order(name, inputs, model.config)
    if order is None:
        order = torch.arange(count)
    patches = torch.arange(count).view(len(order), -1)[order].flatten()
    assert (patches.tolist() == list(range(count))) == (
        family in ("kimi_k25", "paddleocr_vl")
    )
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(
        lambda _, args, out: seen.append(out if torch.is_tensor(out) else out[0])
    )
    features = image_features(model)
    with torch.no_grad():
        features(inputs)
        plain = seen[0].reshape(count, -1)
        for patch in range(0, count, 11):
            changed = inputs["pixel_values"].clone()
            changed[patch] += 1.0
            features({**inputs, "pixel_values": changed})
            difference = (seen[-1].reshape(count, -1) - plain).abs().amax(1)
            noticed = (difference > 1e-5 * plain.abs().max()).nonzero()[:, 0]
            assert patches[noticed].tolist() == [patch]
    handle.remove()
