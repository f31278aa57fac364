"""The growing cache holds what the one of transformers does, whatever is done to it."""

from typing import Any

import pytest
import torch
from captum_dexar.decoding.growing_cache import growing_cache, GrowingLayer, ROOM
from tests.helpers.tiny_models import tiny_vlm
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def states(seed: int, batch: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, batch, 3, length, 4, generator=generator)
    return keys, values


def assert_equal(ours: GrowingLayer, theirs: DynamicLayer) -> None:
    assert ours.get_seq_length() == theirs.get_seq_length()
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize("batch", [1, 3])
def test_it_holds_the_same(batch: int) -> None:
    ours, theirs = GrowingLayer(), DynamicLayer()
    for step, length in enumerate([5, *[1] * (ROOM + 3), 7, ROOM + 1, 1]):
        for one, other in zip(
            ours.update(*states(step, batch, length)),
            theirs.update(*states(step, batch, length)),
        ):
            assert torch.equal(one, other)


CHANGES: dict[str, Any] = {
    "crop": lambda layer: layer.crop(-3),
    "beams": lambda layer: layer.reorder_cache(torch.tensor([2, 0, 2])),
    "fewer": lambda layer: layer.batch_select_indices(torch.tensor([1])),
    "more": lambda layer: layer.batch_repeat_interleave(2),
    "reset": lambda layer: layer.reset(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_changed_alike(change: Any) -> None:
    ours, theirs = GrowingLayer(), DynamicLayer()
    for layer in (ours, theirs):
        for step in range(4):
            layer.update(*states(step, 3, 4))
        change(layer)
        batch = layer.keys.shape[0] if layer.keys is not None else 2
        for step in range(4, 7):
            layer.update(*states(step, batch, 2))
    assert_equal(ours, theirs)


def test_what_was_handed_out_stays_until_it_is_cropped() -> None:
    layer = GrowingLayer()
    keys, _ = layer.update(*states(0, 1, 5))
    before = keys.clone()
    later, _ = layer.update(*states(1, 1, 1))
    assert torch.equal(keys, before)
    assert later.data_ptr() == keys.data_ptr()


def test_only_full_attention_is_replaced() -> None:
    model: Any = tiny_vlm("bakllava_sliding")
    kinds = {type(layer) for layer in growing_cache(model.config).layers}
    assert kinds == {DynamicSlidingWindowLayer}
    cache = growing_cache(tiny_vlm().config)
    assert [type(layer) for layer in cache.layers] == [GrowingLayer] * 3
    assert isinstance(cache, DynamicCache) and cache.get_seq_length() == 0
