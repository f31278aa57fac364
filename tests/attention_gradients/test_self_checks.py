"""Shortcuts that are fed with something wrong: the result stays right, or it is an
error."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMAttributionResult
from captum_dexar.attention_gradients import (
    contraction,
    layer_record,
    layer_replay,
    local_graphs,
)
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.attention_gradients.closed_form import ClosedForm
from captum_dexar.attention_gradients.layer_record import GrowingKeys, LayerRecord
from captum_dexar.baselines import LayerAttentionGradient
from captum_dexar.decoding import generation, raw_logits
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.layers import with_hidden
from captum_dexar.model.target_logits import GrowingLogits
from tests.families.cases import CASES
from tests.families.test_gradients import model_of
from tests.helpers.explained import explained, relative_error
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import nn, Tensor
from transformers import StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
Way = Callable[..., VLMAttributionResult]


def generated(model: nn.Module, inputs: Any, **options: Any) -> Tensor:
    method = VLMAttribution(LayerDexAR(model))
    return method.attribute(inputs, gen_args=GREEDY, **options).token_attr


def streamed(model: nn.Module, inputs: Any, **options: Any) -> Tensor:
    parts = VLMAttribution(LayerDexAR(model)).stream(inputs, GREEDY, **options)
    return torch.cat([part.token_attr for part in parts])


def given(model: nn.Module, inputs: Any, **options: Any) -> Tensor:
    method = VLMAttribution(LayerDexAR(model))
    return method.attribute(inputs, target=answer(model, inputs), **options).token_attr


def answer(model: Any, inputs: Any) -> Tensor:
    made: Tensor = model.generate(**inputs, **GREEDY)
    return made[0, inputs["input_ids"].shape[1] :]


def expected(model: nn.Module, inputs: Any, **options: Any) -> Tensor:
    """By plain autograd, one pass per token."""
    target_ids = answer(model, inputs)[None]
    return explained(model, inputs, target_ids, "autograd", **options).token_attr[0]


every_way = pytest.mark.parametrize("way", [generated, streamed, given])


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Notes for every pass whether layers may be replayed in it."""
    seen: list[bool] = []
    run = ClosedForm.__call__

    def noted(self: ClosedForm, *args: Any) -> Any:
        seen.append(self.replays)
        return run(self, *args)

    monkeypatch.setattr(ClosedForm, "__call__", noted)
    yield seen


def test_a_wrong_record_of_a_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's output decides gradients, but not the layer's known output."""
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    joined = LayerRecord.joined_projections

    def wrong(self: LayerRecord) -> Any:
        known = joined(self)
        for module, output in known.items():
            if module.out_features == 80:
                known[module] = output.flip(-1)
        return known

    monkeypatch.setattr(LayerRecord, "joined_projections", wrong)
    maps = generated(model, inputs)
    assert relative_error(maps, expected(model, inputs)) <= 1e-5


@pytest.mark.parametrize("name", ["hidden_in", "hidden_out"])
def test_a_wrong_record_of_a_layer(
    name: str, monkeypatch: pytest.MonkeyPatch, retried: list[bool]
) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    init = LayerRecord.__init__

    class Wrong(layer_record.Rows):
        def joined(self) -> Tensor:
            return super().joined().flip(1)

    def wrong(self: LayerRecord, *args: Any) -> None:
        init(self, *args)
        setattr(self, name, Wrong(axis=1))

    monkeypatch.setattr(LayerRecord, "__init__", wrong)
    maps = generated(model, inputs)
    assert relative_error(maps, expected(model, inputs)) <= 1e-5
    # Nothing of the record was used.
    assert retried


def test_a_record_of_too_few_keys(
    monkeypatch: pytest.MonkeyPatch, retried: list[bool]
) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    joined = GrowingKeys.joined
    monkeypatch.setattr(GrowingKeys, "joined", lambda self: joined(self)[:, :, 1:])
    maps = generated(model, inputs)
    assert relative_error(maps, expected(model, inputs)) <= 1e-5
    assert retried


@pytest.mark.parametrize("way", [streamed, given])
def test_other_hidden_states(
    way: Way, monkeypatch: pytest.MonkeyPatch, retried: list[bool]
) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    monkeypatch.setattr(
        local_graphs,
        "with_hidden",
        lambda args, kwargs, hidden: with_hidden(args, kwargs, hidden.flip(-1)),
    )
    maps = way(model, inputs)
    assert relative_error(maps, expected(model, inputs)) <= 1e-5
    # Streamed tokens are run again, each by itself, so that nothing is replayed.
    assert retried[-1] is (way is streamed)


@every_way
@pytest.mark.parametrize("place", ["layer", "attention", "projection"])
def test_hooks_that_change_what_a_layer_computes(place: str, way: Way) -> None:
    model: Any = tiny_vlm(seed=1)
    inputs = prompt_inputs(1)
    layer = model.model.language_model.layers[1]

    def squared(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden * hidden.abs()
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    parts = {
        "layer": layer,
        "attention": layer.self_attn,
        "projection": layer.mlp.up_proj,
    }
    parts[place].register_forward_hook(squared)
    maps = way(model, inputs)
    assert relative_error(maps, expected(model, inputs)) <= 1e-5


def test_a_model_that_runs_twice_for_a_token(retried: list[bool]) -> None:
    """Guidance runs the model without the prompt, too; the first pass is explained."""
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    guided = {**GREEDY, "guidance_scale": 1.5}
    method = VLMAttribution(LayerDexAR(model))
    result = method.attribute(inputs, gen_args=guided)
    target_ids = result.target_ids[None]
    assert not torch.equal(target_ids[0], answer(model, inputs))
    reference = explained(model, inputs, target_ids, "autograd")
    assert relative_error(result.token_attr, reference.token_attr[0]) <= 1e-5
    torch.testing.assert_close(
        result.token_log_probs[None], reference.token_log_probs.float()
    )
    parts = list(method.stream(inputs, guided))
    maps = torch.cat([part.token_attr for part in parts])
    assert relative_error(maps, reference.token_attr[0]) <= 1e-5
    assert retried


@pytest.mark.parametrize("cache", ["static", "own"])
def test_a_cache_with_room_for_more_keys(cache: str, retried: list[bool]) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    config: Any = model.config
    extra: dict[str, Any] = {"cache_implementation": "static"}
    if cache == "own":
        text = config.get_text_config()
        extra = {"past_key_values": StaticCache(config=text, max_cache_len=64)}
    parts = VLMAttribution(LayerDexAR(model)).stream(inputs, {**GREEDY, **extra})
    maps = torch.cat([part.token_attr for part in parts])
    assert relative_error(maps, expected(model, inputs)) <= 1e-5


class _Drifting(nn.Module):
    """An embedding that is never twice the same."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.weight = embedding.weight
        self.calls = 0

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        embedded: Tensor = self.embedding(ids)
        return embedded * (1 + 0.1 * self.calls)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_passes_that_are_not_those_of_generating(num_beams: int) -> None:
    model: Any = tiny_vlm(seed=1)
    language_model = model.model.language_model
    language_model.embed_tokens = _Drifting(language_model.embed_tokens).eval()
    arguments = {**GREEDY, "num_beams": num_beams}
    for method in (LayerDexAR(model), LayerAttentionGradient(model)):
        if num_beams == 1 and isinstance(method, LayerDexAR):
            # Its passes are those of generating.
            continue
        differs = "was generated with a log-probability|depend on which positions"
        with pytest.raises(RuntimeError, match=differs):
            VLMAttribution(method).attribute(prompt_inputs(1), gen_args=arguments)


def test_logits_of_another_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    add = GrowingLogits.add
    monkeypatch.setattr(
        GrowingLogits, "add", lambda self, logits, ids: add(self, logits.flip(-1), ids)
    )
    with pytest.raises(Inconsistent, match="log-probability"):
        generated(model, inputs)
    with pytest.raises(Inconsistent, match="log-probability"):
        streamed(model, inputs)


def test_raw_logits_of_other_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    raw = raw_logits.raw_target_logits
    monkeypatch.setattr(
        generation,
        "raw_target_logits",
        lambda ids, logits, beams: raw(ids, logits[1:] + logits[:1], beams),
    )
    method = VLMAttribution(LayerDexAR(model))
    with pytest.raises(Inconsistent, match="log-probability"):
        method.attribute(inputs, gen_args={**GREEDY, "num_beams": 2})


def test_probabilities_that_did_not_give_the_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    probabilities = AttentionCall.probabilities
    monkeypatch.setattr(
        AttentionCall,
        "probabilities",
        lambda self, positions: probabilities(self, positions).flip(-1),
    )
    with pytest.raises(Inconsistent, match="probabilities"):
        generated(model, inputs, attention_power=1.0)


def _halved(*args: Any, **kwargs: Any) -> Any:
    output, *rest = sdpa_attention_forward(*args, **kwargs)
    return (output * 0.5 + 0.1, *rest)


def _as_it_is(*args: Any, **kwargs: Any) -> Any:
    return sdpa_attention_forward(*args, **kwargs)


@every_way
def test_an_attention_function_of_the_users(way: Way) -> None:
    """Gradients are those of probabilities times values."""
    ALL_ATTENTION_FUNCTIONS.register("halved", _halved)
    ALL_ATTENTION_FUNCTIONS.register("as_it_is", _as_it_is)
    try:
        model: Any = tiny_vlm(seed=1)
        inputs = prompt_inputs(1)
        reference = expected(model, inputs)
        model.set_attn_implementation("as_it_is")
        assert relative_error(way(model, inputs), reference) <= 1e-5
        model.set_attn_implementation("halved")
        with pytest.raises(Inconsistent, match="do not give the output"):
            way(model, inputs)
    finally:
        for name in ("halved", "as_it_is"):
            del ALL_ATTENTION_FUNCTIONS._global_mapping[name]


def test_a_layer_at_two_places_is_refused() -> None:
    model: Any = tiny_vlm(seed=1)
    layers = model.model.language_model.layers
    layers[2] = layers[1]
    with pytest.raises(TypeError, match="one layer at several places"):
        LayerDexAR(model)


@pytest.mark.parametrize("max_tokens", [1, 2, None])
def test_a_hook_that_counts_positions(max_tokens: int | None) -> None:
    """It changes the answer only, which a pass on a cache would not show it."""
    model: Any = tiny_vlm(seed=1)
    inputs, target = prompt_inputs(1), torch.tensor([9, 8, 7])
    length = inputs["input_ids"].shape[1]

    def steer(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = torch.cat([hidden[:, :length], 2 * hidden[:, length:]], dim=1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    model.model.language_model.layers[1].register_forward_hook(steer)
    method = VLMAttribution(LayerDexAR(model))
    made = method.attribute(inputs, target=target, max_tokens_per_pass=max_tokens)
    reference = explained(model, inputs, target[None], "autograd").token_attr[0]
    assert relative_error(made.token_attr, reference) <= 1e-5


def test_a_hook_that_only_looks_costs_no_pass() -> None:
    model: Any = tiny_vlm(seed=1)
    inputs, target = prompt_inputs(1), torch.tensor([9, 8, 7])
    layer = model.model.language_model.layers[1]
    method = VLMAttribution(LayerDexAR(model))
    plain = method.attribute(inputs, target=target)
    lengths: list[int] = []
    layer.register_forward_hook(lambda *given: lengths.append(given[1][0].shape[1]))
    made = method.attribute(inputs, target=target)
    assert lengths == [inputs["input_ids"].shape[1] + 2]
    assert relative_error(made.token_attr, plain.token_attr) <= 1e-5


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "mllama"])
def test_graphs_of_the_real_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The road that is left where nothing can be replayed."""
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    target = torch.tensor([9, 8, 7])
    method = VLMAttribution(LayerDexAR(model))
    maps = method.attribute(inputs, target=target).token_attr

    def fails(*args: Any, **kwargs: Any) -> None:
        return None

    monkeypatch.setattr(layer_replay.PostAttentionReplay, "replay", fails)
    again = method.attribute(inputs, target=target).token_attr
    assert relative_error(again, maps) <= case.tolerance


class _Mixing(nn.Module):
    """An MLP in which each position takes from the one before it."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.mlp(hidden)
        return output + nn.functional.pad(output, (0, 0, 1, 0))[:, :-1]


def test_layers_that_mix_positions_after_their_attention() -> None:
    model: Any = tiny_vlm(seed=1)
    layer = model.model.language_model.layers[1]
    layer.mlp = _Mixing(layer.mlp).eval()
    inputs, target = prompt_inputs(1), torch.tensor([9, 8, 7])
    maps = VLMAttribution(LayerDexAR(model)).attribute(inputs, target=target).token_attr
    reference = explained(model, inputs, target[None], "autograd").token_attr[0]
    assert relative_error(maps, reference) <= 1e-5


def test_verification_compares_with_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    method = VLMAttribution(LayerDexAR(model))
    result = method.attribute(inputs, gen_args=GREEDY, verify=True)
    assert result.verification is not None
    assert result.verification.error <= 1e-4
    assert 0 <= result.verification.token < len(result.target_ids)
    unkept = method.attribute(inputs, gen_args=GREEDY, verify=True, keep_layers=False)
    assert unkept.verification is not None and unkept.verification.layer is None
    contract = contraction.contract

    def wrong(layer: int, gradient: Tensor, value: Tensor, *rest: Any) -> Any:
        return contract(layer, gradient.flip(2), value, *rest)

    monkeypatch.setattr(contraction, "contract", wrong)
    with pytest.raises(Inconsistent, match="Verification failed"):
        method.attribute(inputs, gen_args=GREEDY, verify=True)


def test_verification_is_for_dexar() -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    method = VLMAttribution(LayerAttentionGradient(model))
    with pytest.raises(TypeError, match="verify=True"):
        method.attribute(inputs, gen_args=GREEDY, verify=True)


def test_verification_leaves_random_numbers_alone() -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    method = VLMAttribution(LayerDexAR(model))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    method.attribute(inputs, gen_args=GREEDY, verify=True)
    assert torch.equal(torch.random.get_rng_state(), before)
