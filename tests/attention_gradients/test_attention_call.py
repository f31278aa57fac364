"""One attention call by hand: its keys, its probabilities, and what is checked."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum_dexar.attention_gradients.attention_call import (
    AttentionCall,
    encoder_first,
    mask_rule,
    narrowed,
)
from captum_dexar.attention_gradients.call_checks import (
    check_cross_keys,
    check_keys,
    check_probabilities,
)
from captum_dexar.attention_gradients.layer_record import CallRecord
from captum_dexar.model.consistency import Inconsistent
from torch import nn, Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

BATCH, HEADS, QUERIES, KEYS, SIZE = 2, 4, 3, 5, 6
EAGER: Any = eager_attention_forward
SDPA: Any = sdpa_attention_forward


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention_module(**attributes: Any) -> nn.Module:
    module = nn.Module().eval()
    for name, value in {"num_key_value_groups": 2, **attributes}.items():
        setattr(module, name, value)
    return module


def call_of(
    mask: Any = None,
    function: Any = EAGER,
    *,
    layer: int = 4,
    is_cross: bool = False,
    module: nn.Module | None = None,
    **kwargs: Any,
) -> AttentionCall:
    return AttentionCall(
        layer,
        is_cross,
        function,
        EAGER,
        module or attention_module(),
        rand(BATCH, HEADS, QUERIES, SIZE),
        rand(BATCH, HEADS // 2, KEYS, SIZE, seed=1),
        rand(BATCH, HEADS // 2, KEYS, SIZE, seed=2),
        mask,
        **{"scaling": 0.5, **kwargs},
    )


def in_dtype(call: AttentionCall, dtype: torch.dtype) -> AttentionCall:
    for name in ("query", "key", "value"):
        setattr(call, name, getattr(call, name).to(dtype))
    return call


def causal(window: int = KEYS) -> Tensor:
    """The last query stands at the last key."""
    place, key = torch.arange(QUERIES)[:, None] + KEYS - QUERIES, torch.arange(KEYS)
    return ((key <= place) & (key > place - window))[None, None]


@pytest.mark.parametrize("kind", ["bool", "additive", "kernel", "window", "none"])
def test_probabilities_by_hand(kind: str) -> None:
    allowed = causal()
    if kind == "bool":
        # One query of one example may attend to nothing: the softmax would be uniform.
        allowed = (rand(BATCH, 1, QUERIES, KEYS, seed=3) > -0.2).clone()
        allowed[1, 0, 2] = False
        call = call_of(allowed)
    elif kind == "additive":
        call = call_of(torch.zeros(allowed.shape).masked_fill(~allowed, -1e38 * 3))
    elif kind == "kernel":
        call = call_of(None, SDPA)
    elif kind == "window":
        call, allowed = call_of(None, SDPA, sliding_window=2), causal(2)
    else:
        call, allowed = call_of(None), torch.ones_like(allowed)
    rows = [2, 0]
    found = call.probabilities(torch.tensor(rows))
    assert found.shape == (BATCH, HEADS, 2, KEYS) and not found.requires_grad
    mask = allowed.expand(BATCH, HEADS, QUERIES, KEYS)[:, :, rows]
    key = call.key.repeat_interleave(2, dim=1)
    logits = 0.5 * call.query[:, :, rows] @ key.transpose(2, 3)
    weights = logits.exp() * mask
    expected = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found == 0, ~mask)


def test_arguments_by_position_reach_the_eager_function() -> None:
    """The scaling is one, and also where the keys of an encoder are put first."""
    call = call_of(None)
    by_position = call_of(None)
    by_position.args, by_position.kwargs = (0.5,), {}
    rows = torch.tensor([0, 1])
    expected = call.probabilities(rows)
    assert torch.equal(by_position.probabilities(rows), expected)
    moved = encoder_first(by_position, 2).probabilities(rows)
    torch.testing.assert_close(moved, expected.roll(2, dims=-1))


def biased(
    module: Any, query: Any, key: Any, value: Any, mask: Any, **given: Any
) -> tuple[None, Tensor]:
    key = key.repeat_interleave(2, dim=1)
    logits = 0.5 * query @ key.transpose(2, 3) + given["position_bias"]
    if mask is not None:
        logits = logits + mask
    logits = torch.cat([logits, given["sinks"]], dim=-1)
    return None, logits.softmax(-1)[..., :-1]


def test_biases_and_sinks_of_several_passes_are_their_own() -> None:
    """As a cache grows by a key for each."""
    keys, values = (rand(BATCH, HEADS // 2, KEYS, SIZE, seed=seed) for seed in (1, 2))
    record, expected = None, []
    for held in range(KEYS - 2, KEYS + 1):
        call = call_of(
            position_bias=2 * rand(1, HEADS, 1, held, seed=held),
            sinks=rand(BATCH, HEADS, 1, 1, seed=10 + held),
        )
        call.query = rand(BATCH, HEADS, 1, SIZE, seed=held)
        call.key, call.value = keys[:, :, :held], values[:, :, :held]
        call.eager_function = biased
        record = record or CallRecord(call, with_attention=True)
        record.add(call, rand(BATCH, 1, HEADS, SIZE), None, None)
        alone = call.probabilities(torch.tensor([0]))
        expected.append(nn.functional.pad(alone, (0, KEYS - held)))
    assert record is not None
    joined = record.joined(4, {}, KEYS - 2)
    found = joined.probabilities(torch.arange(3))
    torch.testing.assert_close(found, torch.cat(expected, dim=2))


def test_a_bias_and_a_sink_have_a_row_for_each_query() -> None:
    """Two rows of three queries, of one, and of as many queries as there are heads."""
    for num_queries, rows in ((3, [0, 2]), (1, [0]), (HEADS, [3])):
        call = call_of(
            torch.ones(1, 1, num_queries, KEYS, dtype=torch.bool),
            position_bias=rand(1, HEADS, num_queries, KEYS, seed=5),
            sinks=rand(BATCH, HEADS, num_queries, 1, seed=6),
        )
        call.query = rand(BATCH, HEADS, num_queries, SIZE)
        call.eager_function = biased
        whole = call.probabilities(torch.arange(num_queries))
        found = call.probabilities(torch.tensor(rows))
        torch.testing.assert_close(found, whole[:, :, rows])


def test_a_module_that_attends_both_ways() -> None:
    both_ways = call_of(None, SDPA, module=attention_module(is_causal=False))
    causal_call = call_of(None, SDPA)
    rows = torch.arange(QUERIES)
    assert both_ways.allowed_keys(rows) is None
    assert torch.equal(causal_call.allowed_keys(rows), causal())
    assert both_ways.mask_key() != causal_call.mask_key()
    # The last query may attend to every key.
    assert causal_call.allowed_keys(rows[-1:]) is None


def test_probabilities_of_half_precision_are_float32() -> None:
    call = in_dtype(call_of(None), torch.bfloat16)
    assert call.probabilities(torch.tensor([0])).dtype == torch.float32


def test_the_models_own_function_gets_all_of_its_arguments() -> None:
    def function(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    inputs = tuple(rand(1, 1, 2, 3, seed=seed) for seed in range(4))
    module = attention_module()
    call = AttentionCall(
        0, False, function, EAGER, module, *inputs, "more", scaling=0.5
    )
    args, kwargs = call.run()
    assert all(one is two for one, two in zip(args, (module, *inputs, "more")))
    assert len(args) == 6 and kwargs == {"scaling": 0.5}


def test_a_mask_that_the_attention_module_has_narrowed() -> None:
    layer_mask, own = torch.ones(2), torch.ones(2)
    assert narrowed(layer_mask, own) is layer_mask
    assert narrowed(layer_mask, None) is layer_mask
    assert narrowed(own, own) is None and narrowed(None, own) is None
    assert narrowed("a block mask", own) is None


def test_the_mask_of_the_layer_is_that_before_keys_were_chosen() -> None:
    chosen = causal() & (torch.arange(KEYS) != 1)
    call = call_of(chosen)
    rows = torch.tensor([1, 2])
    found = call.causal_keys(rows)
    assert found is not None and torch.equal(found, chosen[:, :, 1:])
    call.layer_mask = causal()
    found, own = call.causal_keys(rows), call.allowed_keys(rows)
    assert found is not None and torch.equal(found, causal()[:, :, 1:])
    assert own is not None and torch.equal(own, chosen[:, :, 1:])


def test_keys_of_an_encoder_come_first() -> None:
    mask = rand(1, 1, QUERIES, KEYS, seed=3)
    call = call_of(mask, is_cross=True)
    assert encoder_first(call, 0) is call
    moved = encoder_first(call, 2)
    order = [3, 4, 0, 1, 2]
    assert moved.encoder_keys == 2 and call.encoder_keys == 0
    assert torch.equal(moved.key, call.key[:, :, order])
    assert torch.equal(moved.value, call.value[:, :, order])
    assert torch.equal(moved.attention_mask, mask[..., order])
    for name in ("query", "module", "attention_function", "eager_function"):
        assert getattr(moved, name) is getattr(call, name)
    assert (moved.layer, moved.is_cross, moved.args) == (4, True, ())
    assert moved.kwargs == call.kwargs == {"scaling": 0.5}
    assert encoder_first(call_of(None), 2).attention_mask is None


def test_how_a_function_masks() -> None:
    plain, both_ways = attention_module(), attention_module(is_causal=False)
    assert mask_rule(True, plain, {}) == (True, True, None)
    assert mask_rule(False, both_ways, {}) == (False, False, None)
    assert mask_rule(True, both_ways, {"is_causal": None}) == (True, False, None)
    given = {"is_causal": True, "sliding_window": 3}
    assert mask_rule(True, both_ways, given) == (True, True, 3)


def test_calls_that_mask_alike_have_one_key() -> None:
    mask = causal()
    call = call_of(mask)
    assert call.mask_key() == call_of(mask, layer=7).mask_key()
    fewer = call_of(mask)
    fewer.value = fewer.value[:, :, 1:]
    single = call_of(mask)
    single.query = single.query[:, :, 1:]
    others = [
        call_of(causal()),
        call_of(mask, is_cross=True),
        call_of(mask, SDPA),
        call_of(mask, is_causal=False),
        call_of(mask, sliding_window=2),
        fewer,
        single,
    ]
    assert len({one.mask_key() for one in (call, *others)}) == 8
    there = call_of(mask)
    there.value = there.value.to("meta")
    assert there.mask_key() != call.mask_key()


def checked(num_keys: int, own: list[int], allowed: Any = None, **kwargs: Any) -> None:
    call: Any = SimpleNamespace(
        **{"layer": 4, "value": rand(1, 1, KEYS, 2), "window": None, **kwargs}
    )
    call.layer_mask = None
    check_keys(call, num_keys, torch.tensor(own), allowed, allowed)


def test_the_number_of_keys() -> None:
    checked(KEYS, [-1])
    checked(KEYS + 1, [-1], window=KEYS)
    checked(KEYS, [-1], window=KEYS + 1)
    checked(KEYS + 9, [-1], window=KEYS - 1)
    for num_keys, window in ((6, None), (4, None), (6, 6), (4, 3)):
        with pytest.raises(Inconsistent, match=f"prompt and answer have {num_keys}"):
            checked(num_keys, [-1], window=window)


def test_a_position_attends_to_its_own_key() -> None:
    checked(KEYS, [-3, -2, -1], causal())
    checked(KEYS, [-2, -1], causal()[:, :, 1:])
    # One row for all, as a padding mask has.
    everywhere = torch.ones(BATCH, 1, 1, KEYS, dtype=torch.bool)
    checked(KEYS, [-2, -1], everywhere)
    everywhere[1, ..., -2] = False
    with pytest.raises(Inconsistent, match="the key that should be its own"):
        checked(KEYS, [-2, -1], everywhere)
    with pytest.raises(Inconsistent, match="layer 4"):
        checked(KEYS, [-1, -2, -3], causal())


def test_a_module_that_chooses_later_keys() -> None:
    """It may leave a position's own key out, but not take one that comes after it."""
    call: Any = SimpleNamespace(
        layer=4, value=rand(1, 1, KEYS, 2), window=None, layer_mask=causal()
    )
    own = torch.tensor([-3, -2, -1])
    chosen = causal() & (torch.arange(KEYS) < 2)
    all_before = causal()
    with torch.device("meta"):  # whatever torch's default device is
        check_keys(call, KEYS, own, chosen, all_before)
    check_keys(call, KEYS, own, causal(), causal())
    chosen = chosen.clone()
    chosen[0, 0, 1, 4] = True
    with pytest.raises(Inconsistent, match="later than its positions"):
        check_keys(call, KEYS, own, chosen, causal())
    # Any key may be chosen by a layer that masks nothing by itself.
    call.layer_mask = None
    check_keys(call, KEYS, own, chosen, causal())


def test_a_cross_attention_holds_every_image_token() -> None:
    call = call_of(is_cross=True)
    check_cross_keys(call, torch.tensor([[0, KEYS - 1]]))
    check_cross_keys(call, torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(Inconsistent, match="up to key 5"):
        check_cross_keys(call, torch.tensor([[0, KEYS], [0, 1]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_probabilities_that_give_the_output(dtype: torch.dtype) -> None:
    call = in_dtype(call_of(None, SDPA), dtype)
    rows = torch.tensor([0, 2])
    probabilities = call.probabilities(rows)
    value = call.value.repeat_interleave(2, dim=1).to(probabilities.dtype)
    # (batch, positions, heads, head size)
    output = (probabilities @ value).transpose(1, 2).to(dtype)
    check_probabilities(call, probabilities, output)
    wrong = output.clone()
    wrong[1, 1, 3, 0] += 0.5
    with pytest.raises(Inconsistent, match="do not give the output"):
        check_probabilities(call, probabilities, wrong)
    if dtype == torch.float64:
        # Eager implementations compute in float32 even of float64.
        check_probabilities(call, probabilities, output * (1 + 1e-7))
