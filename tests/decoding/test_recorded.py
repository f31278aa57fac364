"""Tokens explained out of the passes that predicted them, in every family."""

import math
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMAttributionResult
from captum_dexar.attention_gradients import layer_again
from captum_dexar.attention_gradients.layer_again import known_products
from captum_dexar.attention_gradients.recorded_rows import GrowingKeys, RowBuffer
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.generation import generate
from tests.decoding.test_reuse import every_case, GREEDY, NUM_TOKENS, same
from tests.families.cases import CASES
from tests.families.test_gradients import model_of
from tests.helpers.explained import explained, relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import Tensor

RECORDED = ("qwen3_5", "paligemma2")
pytestmark = pytest.mark.filterwarnings("ignore:The map of the whole answer")


def streamed(method: VLMAttribution, inputs: Any, **arguments: Any) -> Tensor:
    parts = list(method.stream(inputs, gen_args=GREEDY, **arguments))
    assert len(parts) == NUM_TOKENS
    return torch.cat([part.token_attr for part in parts])


@every_case
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_streamed_equals_autograd(case: FamilyCase, power: float) -> None:
    for implementation in case.implementations:
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
def test_a_whole_answer_from_records(case: FamilyCase) -> None:
    """As families do that can't be replayed; here all of them."""
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    method = LayerDexAR(model)
    expected = VLMAttribution(method).attribute(inputs, gen_args=GREEDY)
    nothing = torch.zeros(1, 1, dtype=torch.long)
    live = method.live(DecodingSteps(model, inputs, nothing))
    assert live is not None
    # Not replayed: the cache is the model's own.
    answer = generate(model, inputs, {**GREEDY, "use_cache": False}, live)
    assert answer.explained is not None and answer.cache is None
    maps = answer.explained.token_attr[0][:, expected.layout.placed]
    assert torch.equal(answer.ids[0], expected.target_ids)
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


@pytest.mark.parametrize("max_tokens", [1, 2, 64])
def test_projections_are_computed_once(
    max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = [case for case in CASES if case.name == "paligemma2"]
    model = model_of(case, 0, case.implementations[0])
    taken_over: list[int] = []

    def watched(products: Any) -> Any:
        taken_over.append(len(products))
        return known_products(products)

    monkeypatch.setattr(layer_again, "known_products", watched)
    VLMAttribution(LayerDexAR(model)).attribute(
        case.inputs(0, 3), gen_args=GREEDY, max_tokens_per_pass=max_tokens
    )
    # Queries, keys, values and output of the attention, and three of the MLP.
    assert taken_over == [7] * 4 * math.ceil(NUM_TOKENS / max_tokens)


def test_rows_are_copied_and_their_memory_is_used_again() -> None:
    rows = RowBuffer(axis=1)
    passes = [torch.randn(2, 1 + 4 * (step == 0), 3) for step in range(40)]
    for step, tensor in enumerate(passes):
        rows.add(tensor)
        expected = torch.cat([each[:, -1:] for each in passes[: step + 1]], dim=1)
        assert torch.equal(rows.whole(), expected)
    place = rows.whole().data_ptr()
    rows.reset()
    rows.add(passes[0])
    assert rows.whole().data_ptr() == place and rows.whole().shape == (2, 1, 3)


def test_keys_of_a_growing_cache_are_not_copied() -> None:
    keys = torch.randn(1, 2, 9, 4)
    growing = GrowingKeys(is_constant=False)
    for length in range(4, 10):
        growing.add(keys[:, :, :length])
    assert growing.whole().data_ptr() == keys.data_ptr()
    assert torch.equal(growing.whole(), keys)
    window = GrowingKeys(is_constant=False)
    window.add(keys[:, :, :4])
    for stop in range(5, 10):
        window.add(keys[:, :, stop - 3 : stop])
    assert torch.equal(window.whole(), keys)
    constant = GrowingKeys(is_constant=True)
    constant.add(keys)
    constant.add(keys + 1)
    assert torch.equal(constant.whole(), keys + 1)
