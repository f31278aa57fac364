"""Tokens explained out of the passes that predicted them, in every family."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMAttributionResult
from captum_dexar.attention_gradients import layer_replay
from captum_dexar.attention_gradients.layer_record import GrowingKeys, Overwritten, Rows
from captum_dexar.attention_gradients.layer_replay import replay_layer
from captum_dexar.decoding import generate
from captum_dexar.inputs import Prompt
from captum_dexar.methods import online_dexar
from captum_dexar.methods.online_dexar import OnlineDexAR
from tests.decoding.test_reuse import GREEDY, NUM_TOKENS, same
from tests.families.cases import CASES
from tests.families.test_gradients import distinct_cases, every_case, model_of
from tests.helpers.explained import explained, relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor

RECORDED = ("qwen3_5", "paligemma2")
# Only their cache says where the prompt ends and their window begins: without one, a
# token attends to all earlier ones.
KEEPS_PROMPT = ("unlimited_ocr",)


def streamed(method: VLMAttribution, inputs: Any, **arguments: Any) -> Tensor:
    parts = list(method.stream(inputs, gen_args=GREEDY, **arguments))
    assert len(parts) == NUM_TOKENS
    return torch.cat([part.token_attr for part in parts])


def check_streamed(case: FamilyCase, implementation: str, power: float) -> None:
    if case.places is not None:
        pytest.skip("places are asked for by an input: streamed in test_queries.py")
    model = model_of(case, 1, implementation)
    inputs = case.inputs(1, 3)
    method = VLMAttribution(LayerDexAR(model))
    whole = method.attribute(inputs, gen_args=GREEDY, attention_power=power)
    reference = explained(
        model,
        inputs,
        whole.target_ids[None],
        engine="autograd",
        attention_power=power,
    )
    with untouched(warm(model, inputs)):
        maps = streamed(method, inputs, attention_power=power)
    expected = reference.token_attr[0][:, whole.layout.placed]
    assert relative_error(maps, expected) <= case.tolerance


@every_case
def test_streamed_equals_autograd(case: FamilyCase) -> None:
    if case.has_own_tests:
        pytest.skip("streamed in tests of its own")
    check_streamed(case, case.implementations[0], 0.0)


@distinct_cases
def test_streamed_equals_autograd_with_attention_power(case: FamilyCase) -> None:
    check_streamed(case, case.implementations[-1], 0.5)


@distinct_cases
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_whole_answer_from_records(case: FamilyCase, use_cache: bool) -> None:
    model: Any = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    method = LayerDexAR(model)
    online = method.online(Prompt(model, inputs))
    assert online is not None
    answer = generate(Prompt(model, inputs), {**GREEDY, "use_cache": use_cache}, online)
    # Nothing had to be explained afterwards.
    assert answer.explained is not None and answer.cache is None
    if not use_cache and case.name in KEEPS_PROMPT:
        model.config.get_text_config().sliding_window = 512
    expected = VLMAttribution(method).attribute(inputs, target=answer.ids[0])
    maps = answer.explained.token_attr[0][:, expected.layout.placed]
    assert relative_error(maps, expected.token_attr) <= case.tolerance


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize(
    "options", [{}, {"attention_power": 0.5}, {"top_k": 3}], ids=str
)
def test_batches_of_recorded_answers(name: str, options: dict[str, Any]) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, case.implementations[0])
    method = VLMAttribution(LayerDexAR(model))
    inps = [case.inputs(0, 2), case.inputs(1, 5), case.inputs(2, 3)]
    gen_args = {**GREEDY, "eos_token_id": 7, "pad_token_id": 0}
    together = method.attribute(inps, gen_args=gen_args, **options)
    for inp, result in zip(inps, together):
        same(result, method.attribute(inp, gen_args=gen_args, **options))


@pytest.mark.parametrize("name", ["llava", *RECORDED])
def test_a_contrast_of_a_generated_answer(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, case.implementations[0])
    method = VLMAttribution(LayerDexAR(model))
    inputs, contrast = case.inputs(0, 3), [9, 30, 12]
    result = method.attribute(
        inputs, gen_args=GREEDY, contrast=contrast, max_tokens_per_pass=2
    )
    given = method.attribute(inputs, result.target_ids, contrast=contrast)
    same(result, given)
    plain: VLMAttributionResult = method.attribute(inputs, result.target_ids)
    assert relative_error(result.token_attr[:3], plain.token_attr[:3]) > 1e-3


@pytest.mark.parametrize("cache", ["static", None])
def test_other_caches_of_generating(cache: str | None) -> None:
    """Not ours to cut back: recorded without one, run again with a static one."""
    model, inputs = tiny_vlm(seed=5), prompt_inputs(5)
    method = VLMAttribution(LayerDexAR(model))
    expected = method.attribute(inputs, gen_args=GREEDY)
    other = {"cache_implementation": cache} if cache else {"use_cache": False}
    same(method.attribute(inputs, gen_args={**GREEDY, **other}), expected)


@pytest.mark.parametrize("max_tokens", [2, 64])
@pytest.mark.parametrize("name", ["llava", "paligemma2"])
def test_projections_are_computed_once(
    name: str, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, case.implementations[0])
    reused: list[tuple[int, int]] = []

    def watched(*given: Any, left_out: list[Tensor] | None, **rest: Any) -> Any:
        hidden = replay_layer(*given, left_out=left_out, **rest)
        reused.append((len(given[4]), len(left_out or [])))
        return hidden

    monkeypatch.setattr(layer_replay, "replay_layer", watched)
    VLMAttribution(LayerDexAR(model)).attribute(
        case.inputs(0, 3), gen_args=GREEDY, max_tokens_per_pass=max_tokens
    )
    # The output of the attention, and three of the MLP; what comes before the attention
    # is left out.
    config: Any = model.config
    layers = config.get_text_config().num_hidden_layers
    parts = math.ceil(NUM_TOKENS / max_tokens)
    assert reused == [(4, 3)] * layers * parts


@pytest.mark.parametrize("name", ["llava", "qwen3_5"])
def test_layers_with_a_gated_attention_are_replayed_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers whose attention output is gated by a projection before it."""
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, case.implementations[0])
    without: list[bool] = []

    def watched(*given: Any, left_out: list[Tensor] | None, **rest: Any) -> Any:
        without.append(left_out is not None)
        return replay_layer(*given, left_out=left_out, **rest)

    monkeypatch.setattr(layer_replay, "replay_layer", watched)
    VLMAttribution(LayerDexAR(model)).attribute(
        case.inputs(0, 3), gen_args=GREEDY, max_tokens_per_pass=2
    )
    parts = math.ceil(NUM_TOKENS / 2)
    layers = without.count(True) // (1 if name == "qwen3_5" else parts)
    assert layers and without.count(False) == (
        layers * parts if name == "qwen3_5" else 0
    )


class _InPlace(nn.Module):
    """An MLP that goes on in what its last projection gave."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.mlp(hidden)
        return output.mul_(0.5)


def test_layers_that_work_in_place_are_explained_afterwards() -> None:
    model: Any = tiny_vlm(seed=4)
    for layer in model.model.language_model.layers:
        layer.mlp = _InPlace(layer.mlp).eval()
    inputs = prompt_inputs(4)
    method = VLMAttribution(LayerDexAR(model))
    result = method.attribute(inputs, gen_args=GREEDY)
    reference = explained(model, inputs, result.target_ids[None], engine="autograd")
    assert relative_error(result.token_attr, reference.token_attr[0]) <= 1e-5
    maps = streamed(method, inputs)
    assert relative_error(maps, reference.token_attr[0]) <= 1e-5


def test_two_threads_explain_with_one_model() -> None:
    model, seeds = tiny_vlm(seed=5), [5, 6]
    method = VLMAttribution(LayerDexAR(model))

    def explained_answers(seed: int) -> list[VLMAttributionResult]:
        return [
            method.attribute(
                prompt_inputs(seed), gen_args=GREEDY, max_tokens_per_pass=size
            )
            for size in (1, 2, 64)
        ]

    expected = [explained_answers(seed) for seed in seeds]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(explained_answers, 5 * seeds))
    for number, results in enumerate(together):
        for one, other in zip(results, expected[number % 2]):
            same(one, other)
    modules = model.modules()
    assert not any("forward" in vars(module) for module in modules)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("steps_that_fit", "parts"), [(0.5, 5), (2.5, 3), (9, 1)])
def test_records_are_explained_before_they_grow_too_large(
    steps_that_fit: float, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = tiny_vlm(seed=5), prompt_inputs(5)
    method = LayerDexAR(model)
    expected = VLMAttribution(method).attribute(inputs, gen_args=GREEDY)
    # Output of the attention, the projections behind it, and the layer's own output.
    a_step = 3 * 4 * (48 + 48 + 80 + 80 + 48 + 48)
    monkeypatch.setattr(
        online_dexar, "recorded_bytes", lambda *_: int(steps_that_fit * a_step)
    )
    sizes = []
    explain = OnlineDexAR.explain

    def watched(online: OnlineDexAR, tokens: Tensor, *given: Any) -> Any:
        sizes.append(tokens.shape[1])
        return explain(online, tokens, *given)

    monkeypatch.setattr(OnlineDexAR, "explain", watched)
    same(VLMAttribution(method).attribute(inputs, gen_args=GREEDY), expected)
    assert sum(sizes) == NUM_TOKENS and len(sizes) == parts


def test_rows_of_one_entry_are_kept_as_they_are() -> None:
    rows = Rows(axis=1)
    passes = [torch.randn(2, 1 + 4 * (step == 0), 3) for step in range(5)]
    for tensor in passes:
        rows.add(tensor)
    expected = torch.cat([tensor[:, -1:] for tensor in passes], dim=1)
    # Of the first, which holds others, a copy.
    passes[0].zero_()
    assert torch.equal(rows.joined(), expected) and len(rows) == 5
    passes[3].add_(1)
    with pytest.raises(Overwritten):
        rows.joined()
    rows.reset()
    rows.add(passes[3])
    assert torch.equal(rows.joined(), passes[3])


def test_keys_of_a_growing_cache_are_not_copied() -> None:
    keys = torch.randn(1, 2, 9, 4)
    growing = GrowingKeys(is_constant=False)
    for length in range(4, 10):
        growing.add(keys[:, :, :length])
    assert growing.joined().data_ptr() == keys.data_ptr()
    assert torch.equal(growing.joined(), keys)
    window = GrowingKeys(is_constant=False)
    window.add(keys[:, :, :4])
    for stop in range(5, 10):
        window.add(keys[:, :, stop - 3 : stop])
    assert torch.equal(window.joined(), keys)
    constant = GrowingKeys(is_constant=True)
    constant.add(keys)
    constant.add(keys + 1)
    assert torch.equal(constant.joined(), keys + 1)
