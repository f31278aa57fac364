"""Finding layers, norm and head, and refusing what does not reproduce the logits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.layers import hidden_of
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.target_logits import TargetLogits
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm, VARIANTS
from torch import nn

LastLayer = tuple[nn.Module, torch.Tensor, torch.Tensor]


@pytest.fixture(name="last_layer")
def _last_layer() -> LastLayer:
    """A model, its last decoder layer's output and its logits."""
    model = tiny_vlm()
    kept: list[torch.Tensor] = []
    handle = (
        find_decoder(model)
        .layers[-1]
        .register_forward_hook(
            lambda module, args, output: kept.append(hidden_of(output))
        )
    )
    with torch.no_grad():
        logits = model(**prompt_inputs()).logits
    handle.remove()
    return model, kept[0], logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_norm_and_head_are_found(variant: str) -> None:
    model: Any = tiny_vlm(variant)
    decoder = find_decoder(model)
    assert decoder.layers == list(model.model.language_model.layers)
    assert decoder.final_norm is model.model.language_model.norm
    assert decoder.head is model.lm_head


def test_reading_of_the_last_layer_is_the_models_logit(last_layer: LastLayer) -> None:
    model, hidden, logits = last_layer
    targets = torch.randint(0, 99, hidden.shape[:2])
    reading = LogitLens(find_decoder(model), targets).read(hidden)
    expected = logits.gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(reading, expected, rtol=1e-5, atol=1e-5)


def test_a_head_that_is_no_plain_linear_layer_reads_the_same(
    last_layer: LastLayer,
) -> None:
    model, hidden, _ = last_layer
    decoder = find_decoder(model)
    wrapped = replace(decoder, head=nn.Sequential(decoder.head))
    targets = torch.randint(0, 99, hidden.shape[:2])
    torch.testing.assert_close(
        LogitLens(wrapped, targets).read(hidden),
        LogitLens(decoder, targets).read(hidden),
    )


def test_norming_twice_is_refused(last_layer: LastLayer) -> None:
    model, hidden, logits = last_layer
    decoder = find_decoder(model)
    targets = logits.argmax(-1)
    target_logits = TargetLogits.of(logits, targets)
    LogitLens(decoder, targets).check(hidden, target_logits)
    twice = nn.Sequential(decoder.final_norm, decoder.final_norm)
    with pytest.raises(RuntimeError, match="does not reproduce this model"):
        twice_normed = LogitLens(replace(decoder, final_norm=twice), targets)
        twice_normed.check(hidden, target_logits)


def test_a_model_that_changes_its_logits_on_the_way_is_refused() -> None:
    model = tiny_vlm()
    model.lm_head.register_forward_hook(lambda module, args, output: output.flip(-1))
    model.register_forward_hook(
        lambda module, args, output: setattr(output, "logits", output.logits + 50)
    )
    with pytest.raises(RuntimeError, match="does not reproduce"):
        find_decoder(model)


def test_a_soft_cap_that_is_applied_is_found() -> None:
    model = tiny_vlm()
    model.config.text_config.final_logit_softcapping = 5.0
    model.register_forward_hook(
        lambda module, args, output: setattr(
            output, "logits", 5.0 * torch.tanh(output.logits / 5.0)
        )
    )
    decoder = find_decoder(model)
    assert decoder.description == "a soft cap of 5.0"
    raw = torch.tensor([100.0])
    assert decoder.logit_transform(raw).item() == pytest.approx(5.0)


def test_a_new_head_is_noticed() -> None:
    model = tiny_vlm()
    before = find_decoder(model)
    assert find_decoder(model) is before
    model.lm_head = nn.Linear(48, 99, bias=False)
    assert find_decoder(model).head is model.lm_head
