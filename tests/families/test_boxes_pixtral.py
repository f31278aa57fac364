"""Image tokens of Pixtral and its relatives see the pixels of their boxes.

Pixtral's processor can't be built without torchvision, so that the image processor is
run by itself; the prompt is checked in ``test_prompts_patch_grid``.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
import transformers
from captum_dexar.families import adapter_for_config
from captum_dexar.maps.image_tokens import ImageTokenInput
from tests.families.cases.pixtral import build, MERGE, PATCH
from tests.helpers.blocks import (
    block_report,
    BlockReport,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import Tensor
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil,
)

FAMILIES = ("pixtral", "mistral3", "lighton_ocr", "mistral_large4")
# Mistral 3 fails on an image of a single token, so the smallest have two.
SHAPES = ((48, 48), (64, 40), (33, 130), (130, 33), (80, 20), (5, 20), (18, 6))
HUGE_SHAPES = ((1500, 400), (400, 1500))
LONGEST = 112
# Patches along a token's side.
SIDES = {**MERGE, "mistral_large4": 2}


@lru_cache(maxsize=1)
def silent_model(family: str) -> Any:
    model = mistral_large4() if family == "mistral_large4" else build(family)
    tower = "vision_encoder" if family == "lighton_ocr" else "vision_tower"
    return silence_vision_attention(model, tower, "attention.o_proj")


def mistral_large4() -> Any:
    """With one layer of text, whose attention does not matter here."""
    if not hasattr(transformers, "MistralLarge4Config"):
        pytest.skip(f"transformers {transformers.__version__} lacks Mistral Large 4")
    of_mistral3: Any = build("mistral3")
    config = transformers.MistralLarge4Config(
        vision_config=of_mistral3.config.vision_config,
        text_config=transformers.MistralLarge4TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            index_n_heads=4,
            index_head_dim=16,
        ),
        image_token_index=IMAGE_TOKEN,
        spatial_merge_size=SIDES["mistral_large4"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.MistralLarge4ForConditionalGeneration(config)
        roughen(model)
    return model.eval()


def image_features(model: Any) -> Callable[[Any], Tensor]:
    # LightOnOCR always takes the last layer.
    has_choice = hasattr(model.config, "vision_feature_layer")
    layer = {"vision_feature_layer": -1} if has_choice else {}
    return lambda inputs: torch.cat(
        tuple(
            model.get_image_features(
                pixel_values=inputs["pixel_values"],
                image_sizes=inputs["image_sizes"],
                **layer,
            ).pooler_output
        )
    )


def report_of(family: str, shape: tuple[int, int], **settings: Any) -> BlockReport:
    model, image = silent_model(family), dark_image(*shape)
    side = PATCH * SIDES[family]
    image_processor = PixtralImageProcessorPil(
        size={"longest_edge": LONGEST},
        patch_size={"height": side, "width": side},
        **settings,
    )
    features = image_features(model)
    inputs = image_processor(image, return_tensors="pt")
    layout = adapter_for_config(model.config).layout(
        inputs,
        len(features(inputs)),
        image_sizes=[shape],
        processor=image_processor,
        config=model.config,
    )
    inp = ImageTokenInput(
        [image], layout, lambda image: image_processor(image, return_tensors="pt")
    )
    return block_report(inp, random_blocks(*shape, 10), features, side)


@pytest.mark.parametrize("shape", SHAPES + HUGE_SHAPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    family: str, shape: tuple[int, int]
) -> None:
    report = report_of(family, shape)
    check(report)
    assert report.covering.any(1).all()
    assert not report.changed.all()


@pytest.mark.parametrize("shape", [(48, 64), (75, 100)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_images_that_are_not_resized(
    family: str, shape: tuple[int, int]
) -> None:
    """Rows and columns of pixels that fill no patch are seen by no token."""
    report = report_of(family, shape, do_resize=False)
    check(report)
    assert torch.equal(report.covering, report.changed)
    assert report.covering.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_of_two_images_belong_to_the_tokens_that_notice_them(
    family: str,
) -> None:
    """The smaller image is padded: there, a pixel belongs to no token."""
    model, side = silent_model(family), PATCH * SIDES[family]
    image_processor = PixtralImageProcessorPil(
        size={"longest_edge": LONGEST}, patch_size={"height": side, "width": side}
    )
    images = [dark_image(48, 96), dark_image(80, 40)]
    inputs = dict(image_processor(images, return_tensors="pt"))
    features, adapter = image_features(model), adapter_for_config(model.config)
    with torch.no_grad():
        plain = features(inputs)
    layout = adapter.layout(inputs, len(plain), image_sizes=None, config=model.config)
    assert [view.image for view in layout.views] == [0, 1]
    token = adapter.token_of_pixel_input(inputs, layout, model.config)
    height, width = inputs["pixel_values"].shape[-2:]
    found = set()
    for index in range(2):
        for y, x in itertools.product(range(3, height, 19), range(5, width, 23)):
            pixels = inputs["pixel_values"].clone()
            pixels[index, :, y, x] += 3.0
            with torch.no_grad():
                changed = features({**inputs, "pixel_values": pixels}) - plain
            noticed = changed.abs().amax(1) > 1e-5 * plain.abs().max()
            expected = int(token[index, 0, y, x])
            assert noticed.nonzero()[:, 0].tolist() == (
                [expected] if expected >= 0 else []
            )
            found.add(expected)
    assert -1 in found and len(found) > 10
