"""Boxes follow the settings of the processor's call, or the input is refused.

Blocks of pixels are painted on the image, which shows what each image token sees.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from captum.attr import ImageMaskInput
from captum_dexar.inputs import read_prompt
from captum_dexar.maps.image_tokens import ImageTokenInput
from tests.helpers.blocks import block_report, check, dark_image, random_blocks
from tests.helpers.real_families import FAMILIES, prompt_of, RealFamily
from torch import nn

# Multiples of every family's patches, so that images can go without resizing.
SHAPE = (64, 96)
# One block is in the middle, so that a crop holds it.
BLOCKS = [*random_blocks(*SHAPE, 3), (30, 46, 34, 50)]
# An image that is shrunk to 36 x 48 pixels, then enlarged: a block reaches two pixels
# of the small image in either step, of 1.8 to 2 pixels each. It does not crop.
REACH_OF_IDEFICS3 = 8.0
# Their image processors are those of other families.
SAME = (
    "smolvlm",
    "vipllava",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "gemma3_pan_and_scan",
)


def square(height: int, width: int | None = None) -> dict[str, int]:
    return {"height": height, "width": width or height}


# Where sizes are numbers of pixels; where they are edges, half a minute of tiles.
PIXELS = {"size": {"shortest_edge": 2000, "longest_edge": 5000}}
# Every family takes those that its image processor knows. Some are for models of other
# sizes, which must be refused where they can't be explained.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"do_resize": False},
    {"do_center_crop": False},
    {"do_center_crop": False, "do_resize": False},
    {"do_center_crop": False, "size": square(32)},
    {"do_center_crop": False, "size": square(48)},
    {"do_center_crop": False, "size": square(96)},
    {"do_center_crop": False, "do_pad": True, "size": square(32)},
    {"do_center_crop": True, "crop_size": square(32)},
    {"do_center_crop": True, "crop_size": square(24, 40)},
    {"do_center_crop": True, "crop_size": square(48)},
    {
        "do_center_crop": True,
        "size": {"shortest_edge": 56},
        "crop_size": square(32),
    },
    {
        "do_center_crop": True,
        "size": {"shortest_edge": 110},
        "crop_size": square(96),
    },
    {"size": {"shortest_edge": 48}},
    {"size": {"longest_edge": 96}},
    PIXELS,
    {"size": square(36, 48)},
    {"do_pad": False},
    {"crop_to_patches": False},
    {"crop_to_patches": True, "max_patches": 3},
    {"min_patches": 4, "max_patches": 6},
    {"use_covering_area_grid": False},
    {"min_pixels": 9000, "max_pixels": 12000},
    {"min_pixels": 500, "max_pixels": 2000},
    {"patch_size": 4},
    {"merge_size": 1},
    {"merge_size": 2},
    {"image_grid_pinpoints": [[32, 32]]},
    {"image_grid_pinpoints": [[64, 64]]},
    {"do_image_splitting": False},
    {"max_image_size": {"longest_edge": 16}},
    {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8},
    {"max_image_tiles": 2},
    {"max_soft_tokens": 140},
)


def outcome(
    family: RealFamily, model: nn.Module, processor: Any, settings: dict[str, Any]
) -> str:
    """``right``, or who refused."""
    image = dark_image(*SHAPE)
    text = prompt_of(processor, model)
    features = family.features(model)

    def process(image: Any) -> Any:
        return processor(
            images=image, text=text, return_tensors="pt", **family.call, **settings
        )

    try:
        inp = ImageMaskInput(image, processor_fn=process)
        count = len(features(inp.to_model_input()))
    except Exception:
        return "refused by transformers"
    try:
        layout = read_prompt(inp, model, processor, target=[7]).layout
    except ValueError:
        return "refused"
    assert layout.num_tokens == count
    if not layout.is_located:
        return "no boxes"
    report = block_report(
        ImageTokenInput([image], layout, process),
        BLOCKS,
        features,
        family.token_pixels,
        family.support,
    )
    check(report)
    assert report.covering.any()
    return "right"


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SAME])
def test_boxes_are_those_of_the_call_or_refused(name: str) -> None:
    family = FAMILIES[name]
    if name == "idefics3":
        family = replace(family, support=REACH_OF_IDEFICS3)
    model, processor = family.model(), family.processor()
    known = set(processor.image_processor._valid_kwargs_names)
    if name == "idefics3":
        known -= {"do_center_crop", "crop_size"}
    taken = [settings for settings in SETTINGS if set(settings) <= known]
    if name == "idefics3":
        taken.remove(PIXELS)
    outcomes = Counter(
        outcome(family, model, processor, settings) for settings in taken
    )
    assert outcomes["right"] >= 2, outcomes
