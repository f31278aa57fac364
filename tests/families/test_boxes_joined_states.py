"""Image tokens of Gemma 3n, GLM-5 Next, Inkling and Inkling 2 see the pixels of their
boxes."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs import Prompt, read_prompt
from PIL import Image
from tests.families.cases.joined_states import build, MERGE, PATCH
from tests.helpers.blocks import (
    BICUBIC_SUPPORT,
    block_report,
    check,
    dark_image,
    patch_features,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.joined_states_processors import PROCESSORS
from torch import Tensor

SHAPES = (
    (32, 32),
    (48, 48),
    (64, 40),
    (33, 130),
    (130, 33),
    (80, 20),
    (5, 12),
    (7, 5),
    (41, 57),
    (16, 24),
)
SILENCED = {
    "glm5_next": ("visual", "attn.proj"),
    "inkling2": ("vision_tower", "self_attn.out_proj"),
}
every_family = pytest.mark.parametrize("family", PROCESSORS)


@lru_cache(maxsize=1)
def silent_model(family: str) -> Any:
    model = build(family, implementation="eager")
    if family in SILENCED:
        silence_vision_attention(model, *SILENCED[family])
    return model


def image_features(family: str) -> Callable[[Any], Tensor]:
    model = silent_model(family)

    def features(inputs: Any) -> Tensor:
        if family == "gemma3n":
            # Every position of the convolutional tower sees its neighbours'.
            return patch_features(inputs, PATCH)
        names = ("pixel_values", "image_grid_thw")
        made = model.get_image_features(
            **{name: inputs[name] for name in names if name in inputs}
        ).pooler_output
        every = made if isinstance(made, Tensor) else torch.cat(tuple(made))
        return every.flatten(0, -2)

    return features


def report_of(
    family: str,
    shape: tuple[int, int],
    support: float = BICUBIC_SUPPORT,
    **settings: Any,
) -> Any:
    processor = PROCESSORS[family](**settings)
    inp = ImagePromptInput(
        dark_image(*shape), "<image> is", processor, silent_model(family)
    )
    pixels = PATCH * (MERGE if family == "glm5_next" else 1)
    blocks = random_blocks(*shape, 10)
    return block_report(inp, blocks, image_features(family), pixels, support)


@every_family
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    family: str, shape: tuple[int, int]
) -> None:
    report = report_of(family, shape)
    check(report)
    assert report.covering.any(1).all()
    if min(shape) > 8:
        assert not report.changed.all()
    if family.startswith("inkling"):
        # Nothing is resampled.
        assert torch.equal(report.covering, report.changed)


@pytest.mark.parametrize("shape", [(64, 40), (33, 130), (40, 40)], ids=str)
def test_blocks_where_inkling_rescales_the_image(shape: tuple[int, int]) -> None:
    for fraction in (0.6, 1.7):
        # Lanczos' kernel ends three pixels from its centre.
        report = report_of(
            "inkling_mm_model", shape, support=3.0, rescale_image_frac=fraction
        )
        check(report)


def test_a_black_image_of_inkling_is_not_taken_for_padding() -> None:
    model, processor = (
        silent_model("inkling_mm_model"),
        PROCESSORS["inkling_mm_model"](),
    )
    image = Image.new("RGB", (40, 33))
    inp = ImagePromptInput(image, "<image> is", processor, model)
    assert [view.grid for view in inp.layout.views] == [(5, 6)]


@every_family
def test_the_grid_is_known_from_every_kind_of_input(family: str) -> None:
    """From the image, from a mask of it, and from the processor's output alone."""
    model, processor = silent_model(family), PROCESSORS[family]()
    image = dark_image(33, 56)
    inp = ImagePromptInput(image, "<image> is", processor, model)
    made = processor(images=image, text="<image> is", return_tensors="pt")
    plain = Prompt(model, dict(made)).layout
    masked = ImageMaskInput(
        image,
        processor_fn=lambda some: processor(
            images=some, text="<image> is", return_tensors="pt"
        ),
    )
    layout = read_prompt(masked, model, processor, target=[7]).layout
    assert [view.grid for view in plain.views] == [view.grid for view in layout.views]
    assert layout.views == inp.layout.views


@pytest.mark.parametrize("family", ["glm5_next", "inkling_mm_model", "inkling2"])
def test_several_images(family: str) -> None:
    model, processor = silent_model(family), PROCESSORS[family]()
    images = [dark_image(33, 56), dark_image(64, 40, seed=1)]
    single = [
        ImagePromptInput(image, "<image> is", processor, model).layout
        for image in images
    ]
    both = ImagePromptInput(images, "<image> is <image> .", processor, model).layout
    assert [view.grid for view in both.views] == [
        view.grid for layout in single for view in layout.views
    ]
    assert [view.rectangle for view in both.views] == [
        view.rectangle for layout in single for view in layout.views
    ]


@every_family
def test_pixels_belong_to_their_tokens(family: str) -> None:
    """A pixel that changes changes its own token."""
    model, processor = silent_model(family), PROCESSORS[family]()
    made = dict(
        processor(images=dark_image(48, 40), text="<image> is", return_tensors="pt")
    )
    prompt = Prompt(model, made)
    adapter = adapter_for_config(model.config)
    of_pixel = adapter.token_of_pixel_input(made, prompt.layout, model.config)
    of_pixel = of_pixel.expand(made["pixel_values"].shape).flatten()
    features = image_features(family)
    with torch.no_grad():
        made["pixel_values"] = made["pixel_values"].contiguous()
        before = features(made)
        for place in range(7, of_pixel.numel(), of_pixel.numel() // 9):
            changed = made["pixel_values"].clone()
            changed.view(-1)[place] += 2.0
            after = features({**made, "pixel_values": changed})
            tokens = (after - before).abs().amax(-1).nonzero().flatten().tolist()
            assert tokens == [int(of_pixel[place])]
