"""Images of one pixel, and up to fifty times as long as wide: right, or refused."""

from typing import Any

import pytest
from captum_dexar import ImagePromptInput
from tests.families.cases import tiled_canvas
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.real_families import FAMILIES, prompt_of
from tests.helpers.tile_processors import (
    llava_next_processor,
    llava_onevision_processor,
)

SHAPES = ((1, 1), (1, 2), (7, 1), (1, 50), (500, 10), (20, 300))
# Their image processors are those of other families.
SAME = ("smolvlm", "vipllava", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
# Models of transformers that fail on an image of a single token.
REFUSED = {
    "fuyu": ((1, 1), (1, 2)),
    "mistral3": ((1, 1), (1, 2), (7, 1)),
}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SAME])
def test_tokens_are_those_that_the_model_makes(name: str) -> None:
    family = FAMILIES[name]
    model, processor = family.model(), family.processor()
    features, text = family.features(model), prompt_of(processor, model)
    for shape in SHAPES:
        image = dark_image(*shape)
        try:
            processor(images=image, text=text, return_tensors="pt")
        except (ValueError, ZeroDivisionError):
            continue
        if shape in REFUSED.get(name, ()):
            with pytest.raises(ValueError, match="Pass a larger image"):
                ImagePromptInput(image, text, processor, model)
            continue
        inp = ImagePromptInput(image, text, processor, model)
        blocks = random_blocks(*shape, 2)
        report = block_report(
            inp, blocks, features, family.token_pixels, family.support
        )
        check(report)
        assert report.changed.shape[1] == inp.layout.num_tokens


@pytest.mark.parametrize("shape", [(10, 500), (500, 10)], ids=str)
@pytest.mark.parametrize("variant", ["llava_next", "llava_onevision"])
def test_only_the_copy_of_a_thin_image_has_tokens(
    variant: str, shape: tuple[int, int]
) -> None:
    """The published models' 24 x 24 tokens a tile, of which the canvas has none."""
    vision = {**tiled_canvas.VISION, "image_size": 336, "patch_size": 14}
    model: Any = silence_vision_attention(getattr(tiled_canvas, variant)(vision)).eval()
    if variant == "llava_next":
        processor: Any = llava_next_processor(336, 14)
    else:
        processor = llava_onevision_processor()
        processor.image_processor.size = {"height": 336, "width": 336}
        processor.num_image_tokens = 576
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    model.config.image_grid_pinpoints = pinpoints
    processor.image_processor.image_grid_pinpoints = pinpoints
    inp = ImagePromptInput(dark_image(*shape), "is", processor, model)
    assert [view.name for view in inp.layout.views] == ["global"]
    assert len(inp.layout.placed) == 576
    assert inp.layout.boxes().shape == (576, 4)
    features = FAMILIES[variant].features(model)
    assert len(features(inp.to_model_input())) == inp.layout.num_tokens
    if shape == (10, 500):
        assert inp.layout.num_tokens == 576
