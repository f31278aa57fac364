"""Image tokens see exactly the pixels of their boxes, where an encoder reads the image
alone, through the real image processors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from PIL import Image
from tests.families.cases.image_encoders import (
    build_donut,
    build_pix2struct,
    build_pp_formulanet,
    build_trocr,
    PATCH,
)
from tests.helpers.blocks import (
    BICUBIC_SUPPORT,
    block_report,
    check,
    dark_image,
    patch_features,
    random_blocks,
    SHAPES,
    unclipped_boxes,
    within_reach,
)
from tests.helpers.image_encoder_processors import (
    donut_processor,
    font_in_cache,
    nougat_processor,
    pix2struct_processor,
    pp_formulanet_processor,
    trocr_processor,
)
from torch import nn, Tensor

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
BILINEAR_SUPPORT = 1.0


def checked(
    inp: ImagePromptInput,
    features: Callable[[Any], Tensor],
    token_pixels: int,
    support: float,
    blocks: list[Any] | None = None,
) -> None:
    height, width = inp.image.height, inp.image.width
    blocks = blocks or random_blocks(height, width, 10)
    report = block_report(inp, blocks, features, token_pixels, support)
    check(report)
    assert report.covering.any()
    assert not report.changed.all()


def pix2struct_features(inputs: Any) -> Tensor:
    patches: Tensor = inputs["flattened_patches"][0]
    return patches[patches[:, 0] > 0][:, 2:]


@every_shape
def test_pix2struct(shape: tuple[int, int]) -> None:
    processor = pix2struct_processor()
    inp = ImagePromptInput(dark_image(*shape), "", processor)
    checked(inp, pix2struct_features, PATCH, BILINEAR_SUPPORT)


@every_shape
def test_pix2struct_with_the_question_above_the_image(
    shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font_in_cache(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    processor = pix2struct_processor(is_vqa=True)
    inp = ImagePromptInput(dark_image(*shape), "what is red ?", processor)
    (view,) = inp.layout.views
    assert view.rectangle is not None and view.rectangle[0] < 0
    # The image is resized twice.
    checked(inp, pix2struct_features, PATCH, BICUBIC_SUPPORT + BILINEAR_SUPPORT)


def with_tokens_ahead(count: int) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        patches = patch_features(inputs, 4)
        return torch.cat([patches.new_zeros(count, patches.shape[1]), patches])

    return features


@every_shape
@pytest.mark.parametrize("encoder, ahead", [("vit", 1), ("deit", 2)])
def test_trocr(encoder: str, ahead: int, shape: tuple[int, int]) -> None:
    model = build_trocr(0, "sdpa", encoder)
    inp = ImagePromptInput(dark_image(*shape), "", trocr_processor(), model)
    assert inp.layout.placeless.tolist() == list(range(ahead))
    checked(inp, with_tokens_ahead(ahead), 4, BICUBIC_SUPPORT)


@every_shape
@pytest.mark.parametrize("settings", [{}, {"do_pad": False}], ids=str)
def test_donut(settings: dict[str, Any], shape: tuple[int, int]) -> None:
    model = build_donut(0, "sdpa")
    processor = donut_processor(**settings)
    inp = ImagePromptInput(dark_image(*shape), "what is", processor, model)
    if not settings:
        assert inp.layout.views[0].grid == (4, 6)
    # Shrunk to the shortest edge first, then to fit.
    checked(inp, lambda inputs: swin_features(inputs), 8, 2 * BICUBIC_SUPPORT)


def swin_features(inputs: Any) -> Tensor:
    """Cells of 8 x 8 pixels, the last ones padded."""
    pixels = inputs["pixel_values"]
    height, width = pixels.shape[-2:]
    padded = nn.functional.pad(pixels, (0, -width % 8, 0, -height % 8))
    return patch_features({"pixel_values": padded})


def formula(height: int, width: int) -> Image.Image:
    """Dark noise with white margins, which differ on all sides."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    inside = slice(height // 5, height - height // 9), slice(width // 7, -(width // 4))
    pixels[inside] = np.asarray(dark_image(height, width))[inside]
    return Image.fromarray(pixels)


def blocks_inside(height: int, width: int) -> list[Any]:
    """Blocks that do not touch the edge of the formula, which would move margins."""
    top, left = height // 5 + 1, width // 7 + 1
    rows, columns = height - height // 9 - 1 - top, width - width // 4 - 1 - left
    return [
        (y + top, x + left, y1 + top, x1 + left)
        for y, x, y1, x1 in random_blocks(rows, columns, 10)
    ]


FORMULAS = tuple(shape for shape in SHAPES if min(shape) > 9)


@pytest.mark.parametrize("shape", FORMULAS, ids=str)
def test_nougat(shape: tuple[int, int]) -> None:
    model = build_donut(0, "sdpa")
    inp = ImagePromptInput(formula(*shape), "", nougat_processor(), model)
    checked(inp, swin_features, 8, 2 * BICUBIC_SUPPORT, blocks_inside(*shape))


@pytest.mark.parametrize("shape", FORMULAS, ids=str)
def test_pp_formulanet(shape: tuple[int, int]) -> None:
    pytest.importorskip("torchvision")
    model = build_pp_formulanet(0, "eager")
    processor = pp_formulanet_processor()
    inp = ImagePromptInput(formula(*shape), "", processor, model)

    tower: Any = model.get_submodule("model.encoder")

    def features(inputs: Any) -> Tensor:
        # The layers and the neck mix patches, too.
        hidden = tower.patch_embed(inputs["pixel_values"]).permute(0, 3, 1, 2)
        made: Tensor = tower.multi_modal_projector(hidden)[0]
        return made

    blocks = blocks_inside(*shape)
    report = block_report(inp, blocks, features, 16)
    assert report.covering.any() and not report.changed.all()
    assert not (report.covering & ~report.changed).any()
    # The image is resized twice. A token sees three patches more than its cell, above
    # and to the left.
    boxes, reaches = unclipped_boxes(inp.layout, 16, 2 * BICUBIC_SUPPORT)
    seen = boxes.clone()
    seen[:, :2] -= 3 / 4 * (boxes[:, 2:] - boxes[:, :2])
    for block, changed in zip(blocks, report.changed):
        assert not (changed & ~within_reach(seen, reaches, block)).any()


def test_rotated_images_are_refused() -> None:
    processor = donut_processor(do_align_long_axis=True)
    model = build_donut(0, "sdpa")
    ImagePromptInput(dark_image(30, 60), "", processor, model)
    with pytest.raises(ValueError, match="rotated the image"):
        ImagePromptInput(dark_image(60, 30), "", processor, model)


@pytest.mark.parametrize(
    "build, processor, question",
    [
        (build_pix2struct, pix2struct_processor, ""),
        (build_pix2struct, pix2struct_processor, "a red"),
        (build_trocr, trocr_processor, ""),
        (build_donut, donut_processor, "what is"),
        (build_donut, nougat_processor, ""),
    ],
)
def test_every_kind_of_input(build: Any, processor: Any, question: str) -> None:
    model, processor = build(0, "sdpa"), processor()
    image = formula(37, 61)
    method = VLMAttribution(LayerDexAR(model), processor)
    inp = ImagePromptInput(image, question, processor, model)
    expected = method.attribute(inp, gen_args={"max_new_tokens": 3})
    plain = ImageMaskInput(processor_fn=inp.processor_fn, image=image)
    text = {"text": question} if question else {}
    made = dict(processor(images=image, return_tensors="pt", **text))
    for given in (plain, made):
        result = method.attribute(given, gen_args={"max_new_tokens": 3})
        assert result.target_ids.tolist() == expected.target_ids.tolist()
        torch.testing.assert_close(result.token_attr, expected.token_attr)
        assert result.grid == expected.grid
        if given is plain:
            assert torch.equal(result.boxes, expected.boxes)
