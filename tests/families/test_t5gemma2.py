"""T5Gemma 2: places, and methods that read the softmax over decoder and encoder."""

from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, VLMAttribution
from captum_dexar.baselines import (
    LayerAttention,
    LayerAttentionRollout,
    LayerImageGradCam,
    LayerTokenActivation,
)
from captum_dexar.families import adapter_for_config
from tests.families.cases.encoder_decoders import BEGIN, build_t5gemma2, t5gemma2_inputs
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    SHAPES,
    silence_vision_attention,
)
from tests.helpers.explained import relative_error
from tests.helpers.idefics3_gemma_processors import gemma3_processor
from tests.helpers.tiny_models import IMAGE_TOKEN
from torch import nn, Tensor

BILINEAR_SUPPORT = 1.0


@pytest.fixture(scope="module")
def model() -> Any:
    return build_t5gemma2(0, "eager")


@pytest.fixture(scope="module")
def silent_model() -> nn.Module:
    return silence_vision_attention(build_t5gemma2(0, "sdpa"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_boxes(silent_model: Any, shape: tuple[int, int]) -> None:
    def features(inputs: Any) -> Tensor:
        made = silent_model.get_image_features(inputs["pixel_values"]).pooler_output
        return torch.flatten(made, 0, 1)

    inp = ImagePromptInput(dark_image(*shape), "is", gemma3_processor(), silent_model)
    report = block_report(
        inp, random_blocks(*shape, 10), features, support=BILINEAR_SUPPORT
    )
    check(report)
    assert report.covering.any(1).all() and not report.changed.all(1).any()


def test_pixels_of_the_input(silent_model: Any) -> None:
    """Each belongs to the token whose features it changes."""
    inputs, config = t5gemma2_inputs(0, 3), silent_model.config
    adapter = adapter_for_config(config)
    layout = adapter.layout(inputs, 16, image_sizes=None, config=config)
    tokens = adapter.token_of_pixel_input(inputs, layout, config)[0, 0]
    pixels = inputs["pixel_values"].requires_grad_()
    features = silent_model.get_image_features(pixels).pooler_output[0]
    for token in range(16):
        (gradient,) = torch.autograd.grad(
            features[token].square().sum(), pixels, retain_graph=True
        )
        changes = gradient[0].abs().sum(0) > 0
        assert torch.equal(changes, tokens == token)


def test_the_processors_own_output(model: Any) -> None:
    image, processor = dark_image(40, 60), gemma3_processor()
    inp = ImagePromptInput(image, "what is", processor, model)
    method = VLMAttribution(LayerAttention(model), processor)
    result = method.attribute(inp, gen_args={"max_new_tokens": 2})
    plain = method.attribute(dict(inp.to_model_input()), result.target_ids)
    assert torch.equal(plain.token_attr, result.token_attr)


def test_attention_of_the_image(model: Any) -> None:
    inputs, answer = t5gemma2_inputs(0, 3), [7, 40, 12, 9, 33, 8]
    result = VLMAttribution(LayerAttention(model)).attribute(inputs, answer)
    answered = torch.tensor([[BEGIN, *answer[:-1]]])
    with torch.no_grad():
        output = model(
            **{**inputs, "decoder_input_ids": answered}, output_attentions=True
        )
    is_image = inputs["input_ids"][0] == IMAGE_TOKEN
    read = torch.stack(output.cross_attentions).mean((0, 2))[0][:, is_image]
    assert relative_error(result.token_attr, read) <= 1e-5


@pytest.mark.parametrize(
    "kind", [LayerImageGradCam, LayerAttentionRollout, LayerTokenActivation]
)
def test_methods_on_the_decoders_own_sequence(model: Any, kind: Any) -> None:
    with pytest.raises(TypeError, match="T5Gemma 2"):
        VLMAttribution(kind(model)).attribute(t5gemma2_inputs(0, 3), [7, 40])
