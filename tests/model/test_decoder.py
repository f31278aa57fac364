"""Finding layers, norm and head, and refusing what does not reproduce the logits."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
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


def with_logits(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A model that changes its logits on the way."""
    model: Any = tiny_vlm()
    model.register_forward_hook(
        lambda module, args, output: setattr(output, "logits", change(output.logits))
    )
    return model


def test_a_scale_that_is_not_declared_is_fitted() -> None:
    decoder = find_decoder(with_logits(lambda logits: 0.37 * logits))
    assert decoder.description == "a scale of 0.37"
    raw = torch.tensor([100.0])
    assert decoder.logit_transform(raw).item() == pytest.approx(37.0)


@pytest.mark.parametrize("times", [True, False])
def test_a_declared_scale_may_multiply_or_divide(times: bool) -> None:
    model = with_logits(lambda logits: logits * 8 if times else logits / 8)
    model.config.text_config.logits_scaling = 8.0
    raw = torch.tensor([16.0])
    expected = 128.0 if times else 2.0
    assert find_decoder(model).logit_transform(raw).item() == expected


def test_a_scale_goes_into_a_declared_cap() -> None:
    cap = 0.5
    model = with_logits(lambda logits: cap * torch.tanh(0.37 * logits / cap))
    model.config.text_config.final_logit_softcapping = cap
    decoder = find_decoder(model)
    assert decoder.description == "a scale of 0.37 and a soft cap of 0.5"
    raw = torch.tensor([0.3, 100.0])
    expected = cap * torch.tanh(0.37 * raw / cap)
    torch.testing.assert_close(decoder.logit_transform(raw), expected)


def test_a_cap_that_is_not_declared_is_no_scale() -> None:
    model = with_logits(lambda logits: 0.2 * torch.tanh(logits / 0.2))
    with pytest.raises(RuntimeError, match="does not reproduce"):
        find_decoder(model)


def test_a_vocabulary_may_be_cut() -> None:
    model = with_logits(lambda logits: logits[..., :90])
    assert find_decoder(model).description == "the head's output as it is"


def test_a_new_head_is_noticed() -> None:
    model = tiny_vlm()
    before = find_decoder(model)
    assert find_decoder(model) is before
    model.lm_head = nn.Linear(48, 99, bias=False)
    assert find_decoder(model).head is model.lm_head


def test_a_new_norm_is_noticed() -> None:
    """Also one that wraps the old one, which is still among the model's modules."""
    model: Any = tiny_vlm()
    find_decoder(model)
    language_model = model.model.language_model
    language_model.norm = nn.Sequential(language_model.norm, nn.Tanh()).eval()
    assert find_decoder(model).final_norm is language_model.norm
    assert find_decoder(model) is find_decoder(model)


def test_a_new_layer_is_noticed() -> None:
    model: Any = tiny_vlm()
    find_decoder(model)
    layers = model.model.language_model.layers
    layers[1] = copy.deepcopy(layers[1])
    assert find_decoder(model).layers == list(layers)


def test_a_soft_cap_that_is_added_later_is_noticed() -> None:
    model = tiny_vlm()
    assert find_decoder(model).description == "the head's output as it is"
    model.config.text_config.final_logit_softcapping = 5.0
    model.register_forward_hook(
        lambda module, args, output: setattr(
            output, "logits", 5.0 * torch.tanh(output.logits / 5.0)
        )
    )
    assert find_decoder(model).description == "a soft cap of 5.0"


def test_what_turned_out_wrong_is_found_anew() -> None:
    """A change that can't be seen from outside shows in the logits."""
    model: Any = tiny_vlm()
    model.config.text_config.final_logit_softcapping = 0.2
    decoder = find_decoder(model)
    model.register_forward_hook(
        lambda module, args, output: setattr(
            output, "logits", 0.2 * torch.tanh(output.logits / 0.2)
        )
    )
    dexar = VLMAttribution(LayerDexAR(model))
    made = dexar.attribute(prompt_inputs(), [40, 41])
    assert find_decoder(model) is not decoder
    again = dexar.attribute(prompt_inputs(), [40, 41])
    torch.testing.assert_close(made.token_attr, again.token_attr)
    assert made.token_attr.max() > 0


def _double(model: Any) -> None:
    model.double()


def _other_weights(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def _other_head(model: Any) -> None:
    model.lm_head = copy.deepcopy(model.lm_head)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)


def _other_norm(model: Any) -> None:
    language_model = model.model.language_model
    language_model.norm = nn.Sequential(language_model.norm, nn.Tanh()).eval()


def _other_layer(model: Any) -> None:
    layers = model.model.language_model.layers
    layers[1] = copy.deepcopy(layers[2])
    layers[1].self_attn.layer_idx = 1


def _other_attention(model: Any) -> None:
    model.set_attn_implementation("eager")


CHANGES = [
    _double,
    _other_weights,
    _other_head,
    _other_norm,
    _other_layer,
    _other_attention,
]


def test_a_layer_that_is_replaced_is_not_taken_for_the_chosen_one() -> None:
    model: Any = tiny_vlm()
    layers = model.model.language_model.layers
    dexar = VLMAttribution(LayerDexAR(model, layers[1]))
    _other_layer(model)
    with pytest.raises(ValueError, match="layer 1 .* is not the one .* Make it anew"):
        dexar.attribute(prompt_inputs(), [40, 41])


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_was_changed_is_explained_as_a_new_one(change: Any) -> None:
    model, new, target = tiny_vlm(), tiny_vlm(), [40, 41]
    # Layers are chosen when the method is made.
    dexar = VLMAttribution(LayerDexAR(model))
    dexar.attribute(prompt_inputs(), target)
    change(model)
    change(new)
    if change is _other_layer:
        dexar = VLMAttribution(LayerDexAR(model))
    made = dexar.attribute(prompt_inputs(), target)
    expected = VLMAttribution(LayerDexAR(new)).attribute(prompt_inputs(), target)
    assert torch.equal(made.token_attr, expected.token_attr)
    assert torch.equal(made.token_log_probs, expected.token_log_probs)
    streamed = list(dexar.stream(prompt_inputs(), gen_args={"max_new_tokens": 2}))
    generated = VLMAttribution(LayerDexAR(new)).attribute(
        prompt_inputs(), gen_args={"max_new_tokens": 2}
    )
    assert [int(part.target_ids) for part in streamed] == generated.target_ids.tolist()
