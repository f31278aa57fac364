"""IDEFICS without a resampler: places end to end, pixels, long answers."""

from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.inputs import Prompt
from captum_dexar.model.layers import find_layers
from tests.families.cases import idefics
from tests.helpers.at_softmax import exact
from tests.helpers.blocks import block_report, check, dark_image, random_blocks, SHAPES
from tests.helpers.explained import relative_error
from tests.helpers.query_processors import idefics_processor as processor
from torch import Tensor

SIDE, PATCH = idefics.SIDE, idefics.PATCH
LONG = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}


@pytest.fixture(scope="module")
def model() -> Any:
    return idefics.build(0, "sdpa")


def test_blocks_of_cross_attention_are_layers(model: Any) -> None:
    kinds = [type(layer).__name__ for layer in find_layers(model)]
    gated, plain = "IdeficsGatedCrossAttentionLayer", "IdeficsDecoderLayer"
    assert kinds == [gated, plain, plain, gated, plain, plain]


def test_long_answers_equal_autograd(model: Any) -> None:
    inputs = idefics.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    generated = method.attribute(inputs, gen_args=LONG)
    given = method.attribute(inputs, target=generated.target_ids)
    streamed = list(method.stream(inputs, gen_args=LONG))
    reference: Any = exact(model)
    of_double = {
        name: value.double() if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    expected = VLMAttribution(LayerDexAR(reference, engine="autograd")).attribute(
        of_double, target=generated.target_ids
    )
    every = torch.cat([one.token_attr for one in streamed])
    for found in (generated.token_attr, given.token_attr, every):
        assert relative_error(found, expected.token_attr) <= 1e-5
    assert relative_error(generated.head_weights, expected.head_weights) <= 1e-5


def patches_behind_a_class_token(inputs: Any) -> Tensor:
    unfold = torch.nn.functional.unfold
    patches = unfold(inputs["pixel_values"][0], PATCH, stride=PATCH)[0].T
    return torch.cat([torch.zeros_like(patches[:1]), patches])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks(model: Any, shape: tuple[int, int]) -> None:
    inp = ImagePromptInput(dark_image(*shape), "what is red", processor(), model)
    report = block_report(
        inp, random_blocks(*shape, 10), patches_behind_a_class_token, PATCH
    )
    check(report)
    assert report.covering.any() and not report.changed.all()


def test_pixels_change_their_own_token() -> None:
    model = idefics.build(1, "sdpa")
    tower: Any = model.get_submodule("model.vision_model")
    silenced = [m for n, m in tower.named_modules() if n.endswith("out_proj")]
    assert silenced
    for module in silenced:
        for parameter in module.parameters():
            torch.nn.init.zeros_(parameter)
    inputs = idefics.inputs(0, 3, num_images=2)
    prompt = Prompt(model, inputs)
    token = prompt.adapter.token_of_pixel_input(inputs, prompt.layout, model.config)
    assert torch.equal(token.unique(), prompt.layout.placed)
    pixels = inputs["pixel_values"]
    with torch.no_grad():
        before = tower(pixels[0]).last_hidden_state.flatten(0, 1)
        for image, y, x in ((0, 0, 0), (0, 3, 9), (1, 9, 3), (1, SIDE - 1, SIDE - 1)):
            changed = pixels[0].clone()
            changed[image, 1, y, x] += 5.0
            after = tower(changed).last_hidden_state.flatten(0, 1)
            is_other = (after - before).abs().amax(-1) > 1e-6 * before.abs().max()
            own = int(token[0, image, 0, y, x])
            assert is_other.nonzero()[:, 0].tolist() == [own]


@pytest.mark.parametrize("num_images", [1, 2])
def test_every_kind_of_input(model: Any, num_images: int) -> None:
    images = [dark_image(37, 61), dark_image(50, 20, seed=1)][:num_images]
    method = VLMAttribution(LayerDexAR(model), processor())
    inp = ImagePromptInput(images, "what is red", processor(), model)
    expected = method.attribute(inp, gen_args={"max_new_tokens": 3})
    kinds: list[Any] = [dict(inp.to_model_input())]
    if num_images == 1:
        kinds.append(ImageMaskInput(processor_fn=inp.processor_fn, image=images[0]))
    for given in kinds:
        result = method.attribute(given, gen_args={"max_new_tokens": 3})
        assert result.target_ids.tolist() == expected.target_ids.tolist()
        torch.testing.assert_close(result.token_attr, expected.token_attr)
