"""Every form of mask that an attention function can receive."""

from typing import Any

import pytest
import torch
from captum_dexar.attention_gradients.attention_call import allowed_keys
from torch import nn, Tensor
from torch.nn.attention.flex_attention import create_block_mask

QUERIES, KEYS = 4, 6
ROWS = torch.tensor([1, 3])


def _allowed(mask: Any, by_kernel: bool = True, **kwargs: Any) -> Tensor:
    result = allowed_keys(
        mask,
        num_queries=QUERIES,
        num_keys=KEYS,
        query_positions=ROWS,
        masked_by_kernel=by_kernel,
        module=nn.Identity(),
        kwargs=kwargs,
    )
    if result is None:
        return torch.ones(1, 1, len(ROWS), KEYS, dtype=torch.bool)
    return result


def _rule(window: int = KEYS) -> Tensor:
    """Causal at the lower right corner: query q stands at key q + KEYS - QUERIES."""
    return torch.tensor(
        [
            [[key <= q + 2 and key > q + 2 - window for key in range(KEYS)]]
            for q in ROWS.tolist()
        ]
    ).view(1, 1, 2, KEYS)


def _dense(window: int = KEYS) -> Tensor:
    position = torch.arange(QUERIES)[:, None] + KEYS - QUERIES
    key = torch.arange(KEYS)
    return ((key <= position) & (key > position - window))[None, None]


@pytest.mark.parametrize("window", [KEYS, 3])
def test_boolean_additive_and_missing_masks_agree(window: int) -> None:
    boolean = _dense(window)
    for lowest in (torch.finfo(torch.float32).min, float("-inf")):
        additive = torch.zeros(boolean.shape).masked_fill(~boolean, lowest)
        assert torch.equal(_allowed(additive, by_kernel=False), _rule(window))
    assert torch.equal(_allowed(boolean), _rule(window))
    assert torch.equal(_allowed(None, sliding_window=window), _rule(window))


def test_a_row_for_all_queries_and_more_keys_than_the_call_has() -> None:
    """A static cache has room after the keys."""
    row = torch.tensor([True, False, True, True, False, True])
    wide = torch.cat([row, torch.tensor([False, True])])
    assert torch.equal(_allowed(wide.view(1, 1, 1, -1)), row.view(1, 1, 1, -1))
    dense = torch.cat([_dense(3), torch.ones(1, 1, QUERIES, 2, dtype=torch.bool)], -1)
    assert torch.equal(_allowed(dense), _rule(3))


@pytest.mark.parametrize("window", [0, -1, None])
def test_no_window(window: int | None) -> None:
    assert torch.equal(_allowed(None, sliding_window=window), _rule())
    assert torch.equal(_allowed(None, sliding_window=1), _rule(1))


def test_a_bias_in_an_additive_mask_does_not_forbid() -> None:
    bias = torch.full((1, 1, QUERIES, KEYS), -50.0)
    assert _allowed(bias, by_kernel=False).all()


def test_padding_mask_of_flash_attention() -> None:
    padding = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    allowed = _allowed(padding)
    assert not allowed[0, :, :, 0].any()
    assert torch.equal(allowed[1:], _rule())


def test_padding_of_more_keys_than_the_call_has_is_that_of_the_last() -> None:
    padding = torch.tensor([[1, 1, 0, 0, 1, 1, 1, 1, 1]])
    allowed = _allowed(padding, is_causal=False)
    assert torch.equal(allowed, padding[:, None, None, -KEYS:].bool())
    # An eager function does not read it.
    assert _allowed(padding, by_kernel=False).all()


def test_block_mask_follows_its_rule() -> None:
    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query + 2) & (key >= batch) & (head == 0)

    mask = create_block_mask(rule, 2, None, QUERIES, KEYS, device="cpu")
    allowed = _allowed(mask)
    assert torch.equal(allowed[:1], _rule())
    assert torch.equal(allowed[1:], _rule() & (torch.arange(KEYS) >= 1))


def test_tensors_are_made_on_the_device_of_the_call() -> None:
    """Whatever torch's default device is; of the one called meta nothing is known."""

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query + 2) & (batch == 0) & (head == 0)

    mask = create_block_mask(rule, 1, None, QUERIES, KEYS, device="cpu")
    expected = _rule()
    with torch.device("meta"):
        found = [_allowed(mask), _allowed(None)]
    assert all(torch.equal(one, expected) for one in found)


def test_eager_attention_without_a_mask_sees_everything() -> None:
    assert _allowed(None, by_kernel=False).all()
    assert _allowed(None, is_causal=False).all()


def test_an_unknown_mask_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a tensor, a BlockMask or None"):
        _allowed("causal")
