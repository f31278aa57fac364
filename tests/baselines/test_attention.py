"""Attention maps equal a literal computation on eager attention probabilities."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar.baselines import (
    LayerAttention,
    LayerAttentionGradient,
    LayerAttentionRollout,
)
from captum_dexar.baselines.baseline import LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from captum_dexar.methods.layer_dexar import LayerDexAR
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.layers import find_layers, hidden_of
from captum_dexar.model.logit_lens import LogitLens
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm
from torch import nn, Tensor

VARIANTS = ("llava", "bakllava_sliding")
TARGETS = random_targets(4, 7)

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_kernel = pytest.mark.parametrize("kernel", ["sdpa", "eager"])


def attributions(
    method: type[LayerBaseline], model: nn.Module, layer: Any = None
) -> Tensor:
    """``(steps, layers, image tokens)``."""
    steps = DecodingSteps(Prompt(model, prompt_inputs(3)), TARGETS)
    return method(model, layer).attribute_steps(steps).layer_attr[0]


def eager_attentions(variant: str) -> tuple[Tensor, DecodingSteps]:
    """``(layers, heads, queries, keys)`` of prompt and answer, float64."""
    model: Any = tiny_vlm(variant, 6, attn_implementation="eager").double()
    inputs = {
        key: value.double() if value.is_floating_point() else value
        for key, value in prompt_inputs(3).items()
    }
    steps = DecodingSteps(Prompt(model, inputs), TARGETS)
    with torch.no_grad():
        output = model(**steps.full_pass().inputs, output_attentions=True)
    return torch.stack(output.attentions)[:, 0], steps


@every_kernel
@every_variant
def test_attention_is_that_of_eager(variant: str, kernel: str) -> None:
    model = tiny_vlm(variant, 6, attn_implementation=kernel)
    probabilities, steps = eager_attentions(variant)
    rows = probabilities.mean(1)[:, steps.full_pass().query_positions][
        ..., steps.prompt.image_keys[0]
    ]
    ours = attributions(LayerAttention, model)
    assert relative_error(ours, rows.transpose(0, 1) / 3) <= 1e-5
    last = attributions(LayerAttention, model, find_layers(model)[-1])
    assert relative_error(last[:, 0], rows[-1]) <= 1e-5


@every_kernel
@every_variant
def test_rollout_is_a_product_of_matrices(variant: str, kernel: str) -> None:
    model = tiny_vlm(variant, 6, attn_implementation=kernel)
    probabilities, steps = eager_attentions(variant)
    identity = torch.eye(probabilities.shape[-1], dtype=torch.float64)
    flow = identity
    for layer in probabilities.mean(1):
        mixed = 0.5 * layer + 0.5 * identity
        flow = (mixed / mixed.sum(-1, keepdim=True)) @ flow
    expected = flow[steps.full_pass().query_positions][:, steps.prompt.image_keys[0]]
    ours = attributions(LayerAttentionRollout, model)[:, 0]
    assert relative_error(ours, expected) <= 1e-5


def test_rollout_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_vlm("llava", 6)
    whole = attributions(LayerAttentionRollout, model)
    monkeypatch.setattr("captum_dexar.baselines.rollout.ROWS_AT_A_TIME", 5)
    assert relative_error(attributions(LayerAttentionRollout, model), whole) <= 1e-6


def autograd(variant: str, part: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``part`` of each head's attention and its gradient, from a pass whose graph spans
    all layers, summed over heads: ``(steps, layers, image tokens)``."""
    model: Any = tiny_vlm(variant, 6, attn_implementation="eager").double()
    inputs = {
        key: value.double() if value.is_floating_point() else value
        for key, value in prompt_inputs(3).items()
    }
    steps = DecodingSteps(Prompt(model, inputs), TARGETS)
    decoder = find_decoder(model)
    hidden: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda m, a, o: hidden.append(hidden_of(o)))
        for layer in decoder.layers
    ]
    output = model(**steps.full_pass().inputs, output_attentions=True)
    for handle in handles:
        handle.remove()
    expected = torch.zeros(4, 3, 16, dtype=torch.float64)
    for step, row in enumerate(steps.full_pass().query_positions):
        for index, probabilities in enumerate(output.attentions):
            lens = LogitLens(decoder, TARGETS[:, step : step + 1])
            reading = lens.read(hidden[index][:, row : row + 1])
            (gradient,) = torch.autograd.grad(
                reading.sum(), probabilities, retain_graph=True
            )
            summed = part(probabilities, gradient)
            expected[step, index] = summed[0, row, steps.prompt.image_keys[0]]
    return expected.detach()


@every_kernel
@every_variant
def test_attention_gradient_is_that_of_plain_autograd(
    variant: str, kernel: str
) -> None:
    expected = autograd(variant, lambda attn, gradient: (attn * gradient).sum(1).relu())
    ours = attributions(
        LayerAttentionGradient, tiny_vlm(variant, 6, attn_implementation=kernel)
    )
    assert relative_error(ours, expected) <= 1e-5


@every_variant
def test_dexar_without_its_filter_sums_all_heads(variant: str) -> None:
    # A key that the sliding window masks has no part, whatever its gradient.
    expected = autograd(variant, lambda attn, g: (g.relu() * (attn > 0)).sum(1))
    model = tiny_vlm(variant, 6)
    steps = DecodingSteps(Prompt(model, prompt_inputs(3)), TARGETS)
    ours = LayerDexAR(model).attribute_steps(steps, head_filter=False).layer_attr
    assert relative_error(ours[0], expected) <= 1e-5
