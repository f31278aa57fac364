"""Prompts with several images, which may follow each other directly."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
)
from tests.helpers.blocks import dark_image
from tests.helpers.explained import assert_same, explained
from tests.helpers.processors import llava_processor
from tests.helpers.tiny_models import IMAGE_TOKEN, tiny_vlm
from torch import nn

SIZES = ((40, 60), (64, 32))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_vlm(seed=2)


@pytest.fixture(scope="module")
def processor() -> Any:
    return llava_processor()


def two_images(prompt: str, processor: Any, model: nn.Module) -> ImagePromptInput:
    images = [dark_image(*size, seed=i) for i, size in enumerate(SIZES)]
    return ImagePromptInput(images, prompt, processor, model)


@pytest.fixture(scope="module")
def result(model: nn.Module, processor: Any) -> VLMAttributionResult:
    inp = two_images("<image><image> what is in the image ?", processor, model)
    return VLMAttribution(LayerDexAR(model), processor).attribute(inp, target=[9, 30])


@pytest.mark.parametrize(
    "prompt", ["<image><image> is", "a <image> is <image> in", "what is in the image"]
)
def test_images_are_split_by_their_number_of_tokens(
    model: nn.Module, processor: Any, prompt: str
) -> None:
    inp = two_images(prompt, processor, model)
    assert [view.image for view in inp.layout.views] == [0, 1]
    assert [view.start for view in inp.layout.views] == [0, 16]
    assert inp.layout.image_sizes == SIZES
    assert inp.n_itp_features == 32
    ids = inp.to_model_input()["input_ids"]
    assert int((ids == IMAGE_TOKEN).sum()) == 32


def test_closed_form_equals_autograd(model: nn.Module, processor: Any) -> None:
    inputs = dict(two_images("<image><image> is a", processor, model).to_model_input())
    targets = torch.tensor([[7, 40, 8]])
    reference = explained(model, inputs, targets, engine="autograd")
    assert_same(explained(model, inputs, targets), reference)


def test_maps_of_each_image_on_one_scale(result: VLMAttributionResult) -> None:
    first, second = result.token_maps
    assert first.shape == second.shape == (2, 4, 4)
    both = torch.stack([first, second], 1).flatten(1)
    assert both.amin(1).tolist() == [0, 0] and both.amax(1).tolist() == [1, 1]
    assert [heat.shape for heat in result.sequence_map] == [(4, 4), (4, 4)]
    assert [result.pixel_map(0, image).shape for image in (0, 1)] == list(SIZES)
    assert result.input_tokens[0] == "image0 full[0,0]"
    assert result.input_tokens[16] == "image1 full[0,0]"


def test_one_image_of_the_result(result: VLMAttributionResult) -> None:
    second = result.of_image(1)
    assert torch.equal(second.token_attr, result.token_attr[:, 16:])
    assert torch.equal(second.layer_attr, result.layer_attr[..., 16:])
    assert second.boxes[:, 2].max() == SIZES[1][0] * 0.75  # the centre crop's end
    assert second.image.size == (32, 64)
    assert second.token_maps.amax((1, 2)).tolist() == [1, 1]
    with pytest.raises(IndexError, match="2 images, counted from 0; got image 2"):
        result.of_image(2)


def test_pictures(result: VLMAttributionResult) -> None:
    for image, size in enumerate(SIZES):
        _, axes = result.plot_tokens(image=image)
        assert axes.ravel()[1].images[0].get_array().shape[:2] == size
        result.plot_sequence(image=image)
        result.of_image(image).plot_layers()
        result.of_image(image).plot_image_heatmap()
    for refused in (result.plot_layers, result.plot_image_heatmap):
        with pytest.raises(ValueError, match="2 images.*of_image"):
            refused()
    plt.close("all")


def test_saved_and_loaded(result: VLMAttributionResult, tmp_path: Path) -> None:
    result.save(tmp_path / "two.dexar")
    loaded = VLMAttributionResult.load(tmp_path / "two.dexar")
    assert loaded == result and len(loaded.images) == 2
    assert loaded.of_image(1) == result.of_image(1)


def test_features_of_both_images_are_painted(model: nn.Module, processor: Any) -> None:
    inp = two_images("<image><image> is", processor, model)
    present = torch.ones(1, 32)
    present[0, 16:] = 0
    before = inp.to_model_input()["pixel_values"]
    after = inp.to_model_input(present)["pixel_values"]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    ("prompt", "count"), [("<image> is", 1), ("<image><image><image> is", 3)]
)
def test_a_placeholder_for_each_image(
    model: nn.Module, processor: Any, prompt: str, count: int
) -> None:
    with pytest.raises(ValueError, match=f"{count} times, but the number of images"):
        two_images(prompt, processor, model)


def test_an_empty_list_of_images_is_refused(model: nn.Module, processor: Any) -> None:
    with pytest.raises(ValueError, match="no image"):
        ImagePromptInput([], "is", processor, model)
