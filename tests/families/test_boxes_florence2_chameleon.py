"""Florence-2 and Chameleon, whose vision towers are convolutions.

A token sees some pixels beyond its box then. What mixes all positions (attention, group
norms) and the blocks' own convolutions are silenced; those that make the grid remain.
"""

from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from tests.families.cases.cross_attention import build_florence2
from tests.families.cases.early_fusion import build_chameleon
from tests.helpers.blocks import (
    BICUBIC_SUPPORT,
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.plain_prompt_processors import (
    chameleon_processor,
    florence2_processor,
)
from torch import nn, Tensor

SHAPES = ((96, 96), (50, 130), (200, 50), (20, 31), (1500, 400), (400, 1500))
# A grid of 12 x 12 tokens.
FLORENCE_SIDE, CHAMELEON_SIDE = 96, 48
# Pixels of the processed image that a token's convolutions see beyond its own square.
FLORENCE_REACH, CHAMELEON_REACH = 7.0, 9.0
LANCZOS_SUPPORT = 3.0


@pytest.fixture(scope="module", name="florence2")
def _florence2() -> nn.Module:
    model = build_florence2(0, "sdpa")
    for output in (
        "window_attn.proj",
        "channel_attn.proj",
        "block.conv1",
        "block.conv2",
    ):
        silence_vision_attention(model, output=output)
    return model


@pytest.fixture(scope="module", name="chameleon")
def _chameleon() -> nn.Module:
    model: Any = build_chameleon(False, 0, "sdpa")
    encoder = model.model.vqmodel.encoder
    for output in ("attn_1.proj_out", "conv2"):
        silence_vision_attention(model, "vqmodel.encoder", output)
    for module in encoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return model


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_florence2s_tokens(
    florence2: Any, shape: tuple[int, int]
) -> None:
    whole_image: list[Tensor] = []

    def features(inputs: Any) -> Tensor:
        tower = florence2.model.vision_tower(inputs["pixel_values"])
        tokens: Tensor = florence2.model.multi_modal_projector(tower[0])[0]
        whole_image.append(tokens[0].clone())
        # The first is the mean of all, and has no place.
        return torch.cat([torch.zeros_like(tokens[:1]), tokens[1:]])

    processor = florence2_processor(FLORENCE_SIDE)
    inp = ImagePromptInput(dark_image(*shape), "what", processor, florence2)
    assert inp.layout.placeless.tolist() == [0]
    assert inp.layout.views[0].grid == (12, 12)
    report = block_report(
        inp,
        random_blocks(*shape, 10),
        features,
        support=BICUBIC_SUPPORT + FLORENCE_REACH,
    )
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()
    assert all(not torch.equal(mean, whole_image[0]) for mean in whole_image[1:])
    without_model = ImagePromptInput(dark_image(*shape), "what", processor)
    assert without_model.layout == inp.layout


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_chameleons_codes(chameleon: Any, shape: tuple[int, int]) -> None:
    def features(inputs: Any) -> Tensor:
        made: Tensor = chameleon.model.vqmodel.encoder(inputs["pixel_values"])
        return made[0].flatten(1).T

    processor = chameleon_processor(CHAMELEON_SIDE)
    inp = ImagePromptInput(dark_image(*shape), "what", processor, chameleon)
    assert inp.layout.views[0].grid == (12, 12)
    report = block_report(
        inp,
        random_blocks(*shape, 14),
        features,
        token_pixels=4,
        support=LANCZOS_SUPPORT + CHAMELEON_REACH,
    )
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()
    without_model = ImagePromptInput(dark_image(*shape), "what", processor)
    assert without_model.layout == inp.layout


def test_codes_are_in_the_order_of_the_features() -> None:
    """The model's own words for an image are its nearest codes, row by row."""
    model: Any = build_chameleon(False, 0, "sdpa")
    pixels = torch.randn(
        1, 3, CHAMELEON_SIDE, CHAMELEON_SIDE, generator=torch.Generator().manual_seed(0)
    )
    vqmodel, mapping = model.model.vqmodel, model.model.vocabulary_mapping
    with torch.no_grad():
        words = model.get_image_tokens(pixels)[0]
        features = vqmodel.quant_conv(vqmodel.encoder(pixels))[0].flatten(1).T
        nearest = torch.cdist(features, vqmodel.quantize.embedding.weight).argmin(1)
    assert words.tolist() == mapping.convert_img2bpe(nearest).tolist()
    assert len(set(words.tolist())) > 2


def test_grids_are_known_without_the_image(florence2: Any, chameleon: Any) -> None:
    for model, num_tokens in ((florence2, 1 + 6 * 9), (chameleon, 12 * 18)):
        layout = adapter_for_config(model.config).layout(
            {"pixel_values": torch.zeros(1, 3, 48, 72)},
            num_tokens,
            image_sizes=None,
            config=model.config,
        )
        assert layout.views[0].num_tokens == len(layout.placed)
        assert layout.boxes() is None
