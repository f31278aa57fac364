"""GOT-OCR 2 and PP-Chart2Table: boxes, and how far their convolutions see."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config
from tests.families.cases import tiles
from tests.families.cases.tiles import OCR_MERGE, OCR_TILE, PATCH
from tests.helpers.blocks import (
    block_report,
    dark_image,
    overlap,
    random_blocks,
    silence_vision_attention,
    unclipped_boxes,
    within_reach,
)
from tests.helpers.tile_processors import got_ocr2_processor, pp_chart2table_processor
from torch import nn, Tensor

SHAPES = (
    (64, 64),
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
SIDE = OCR_TILE // PATCH // OCR_MERGE
TOKEN_PIXELS = PATCH * OCR_MERGE
PROCESSORS: dict[str, Callable[..., Any]] = {
    "got_ocr2": got_ocr2_processor,
    "pp_chart2table": pp_chart2table_processor,
    "got_ocr2_tiles": lambda: got_ocr2_processor(crop_to_patches=True),
}
QUESTIONS = {name: "<imgpad>" for name in PROCESSORS} | {
    # All image tokens are in the prompt.
    "pp_chart2table": "<img>"
    + "<imgpad>" * SIDE**2
    + "</img>"
}


@lru_cache
def silent_model(variant: str) -> nn.Module:
    """Without attention, and without the 3 x 3 convolution of SAM's neck."""
    model: Any = silence_vision_attention(
        tiles.build(variant.removesuffix("_tiles")), output="attn.proj"
    )
    kernel = model.model.vision_tower.neck.conv2.weight
    with torch.no_grad():
        centre = kernel[:, :, 1, 1].clone()
        kernel.zero_()
        kernel[:, :, 1, 1] = centre
    return model


def features_by(model: Any) -> Callable[[Any], Tensor]:
    return lambda inputs: model.get_image_features(
        inputs["pixel_values"]
    ).pooler_output.flatten(0, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", PROCESSORS)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    variant: str, shape: tuple[int, int]
) -> None:
    """Others may change that are up to three patches below or to the right of them."""
    model = silent_model(variant)
    processor, text = PROCESSORS[variant](), QUESTIONS[variant]
    inp = ImagePromptInput(dark_image(*shape), text, processor, model)
    blocks = random_blocks(*shape, 10)
    report = block_report(inp, blocks, features_by(model), TOKEN_PIXELS)
    assert report.covering.any()
    assert not (report.covering & ~report.changed).any()
    boxes, reaches = unclipped_boxes(inp.layout, TOKEN_PIXELS)
    seen = boxes.clone()
    # The squares of 7 x 7 patches that the tokens see.
    seen[:, :2] -= 3 / OCR_MERGE * (boxes[:, 2:] - boxes[:, :2])
    for block, changed in zip(blocks, report.changed):
        assert not (changed & ~within_reach(seen, reaches, block)).any()
        assert not (overlap(boxes, block) & ~changed).any()
    by_processor = ImagePromptInput(dark_image(*shape), text, processor)
    assert by_processor.layout == inp.layout
    names = [view.name for view in inp.layout.views]
    if variant != "got_ocr2_tiles":
        assert names == ["full"]
    elif shape == (20, 80):
        assert names == ["tile"] * 4 + ["global"]


def test_each_patch_is_seen_by_the_tokens_within_three_patches() -> None:
    model: Any = silent_model("got_ocr2")
    pixels = torch.full((1, 3, OCR_TILE, OCR_TILE), 0.1)
    features = features_by(model)
    with torch.no_grad():
        before = features({"pixel_values": pixels})
        for row, column in ((0, 0), (3, 4), (5, 8), (9, 15), (12, 7), (15, 15)):
            painted = pixels.clone()
            y, x = row * PATCH, column * PATCH
            painted[:, :, y : y + PATCH, x : x + PATCH] = 2.0
            after = features({"pixel_values": painted})
            changed = (after - before).abs().amax(-1) > 1e-6
            near_y, near_x = (
                [abs(OCR_MERGE * cell - patch) <= 3 for cell in range(SIDE)]
                for patch in (row, column)
            )
            expected = torch.tensor(near_y)[:, None] & torch.tensor(near_x)
            assert torch.equal(changed.view(SIDE, SIDE), expected)
            # The token whose cell holds the patch is one of them.
            assert expected[row // OCR_MERGE, column // OCR_MERGE]


@pytest.mark.parametrize("variant", PROCESSORS)
def test_two_images_and_their_answer(variant: str) -> None:
    model, processor = silent_model(variant), PROCESSORS[variant]()
    images = [dark_image(64, 64), dark_image(30, 90, seed=1)]
    text = f"left {QUESTIONS[variant]} of {QUESTIONS[variant]} red"
    inp = ImagePromptInput(images, text, processor, model)
    for index, image in enumerate(images):
        alone = ImagePromptInput(image, QUESTIONS[variant], processor, model)
        ours, _ = inp.layout.of_image(index)
        assert ours.views == alone.layout.views
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target=[5, 6])
    assert result.token_attr.shape == (2, len(inp.layout.placed))


def test_prompts() -> None:
    processor = PROCESSORS["got_ocr2"]()
    inp = ImagePromptInput(dark_image(50, 71), "what is red ?", processor)
    own = processor(images=dark_image(50, 71), return_tensors="pt")
    start = inp.prompt.index("what is red ?")
    words = processor.tokenizer.decode(own["input_ids"][0]).split()
    ours = processor.tokenizer.decode(inp.to_model_input()["input_ids"][0]).split()
    # The processor's own prompt has its query where ours has the question.
    assert inp.prompt[:start].endswith("<img><imgpad></img>\n")
    first = ours.index("what")
    assert ours[:first] == words[:first]
    assert ours[-2:] == words[-2:]
    chart = PROCESSORS["pp_chart2table"]()
    inp = ImagePromptInput(dark_image(50, 71), "what is red ?", chart)
    assert inp.prompt.count("<imgpad>") == inp.layout.num_tokens == SIDE**2


def test_without_the_original_image_the_grids_are_known() -> None:
    config: Any = silent_model("got_ocr2").config
    layout = adapter_for_config(config).layout(
        tiles.inputs("got_ocr2", 0, 3), 3 * SIDE**2, image_sizes=None, config=config
    )
    assert [view.name for view in layout.views] == ["tile", "tile", "global"]
    assert {view.grid for view in layout.views} == {(SIDE, SIDE)}
    assert not layout.is_located and layout.num_images == 1
