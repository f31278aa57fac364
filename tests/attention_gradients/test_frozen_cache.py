"""What a layer that is run again does to its cache, the model's own does not notice."""

from typing import Any

import pytest
import torch
from captum_dexar.attention_gradients.frozen_cache import FrozenCache
from tests.families.cases import chosen_keys, patch_grid
from tests.families.cases.chosen_keys import BUILDERS
from torch import Tensor

VARIANTS = ("qwen4_exp", "minimax_m3_vl", "mistral_large4", "dots3_note", "qwen3_5")


def states(value: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors inside a cache."""
    if isinstance(value, Tensor):
        return {path: value.clone()}
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif hasattr(value, "__dict__") and not callable(value):
        items = vars(value).items()
    found: dict[str, Tensor] = {}
    for key, item in items:
        found |= states(item, f"{path}.{key}")
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_kind_of_state_is_written_to(variant: str) -> None:
    cases = chosen_keys if variant in BUILDERS else patch_grid
    model: Any = cases.build(variant)
    with torch.no_grad():
        cache = model(**cases.inputs(variant, 0, 3), use_cache=True).past_key_values
    before = states(cache)
    assert before
    frozen: Any = FrozenCache(cache)
    one = torch.ones(1, 1, 1, 16)
    kinds = set()
    for index, layer in enumerate(cache.layers):
        assert frozen.get_seq_length() == cache.get_seq_length()
        for name in dir(layer):
            if not name.startswith("update"):
                continue
            kinds.add(name)
            given = (one, 2 * one) if name == "update" else (one,)
            backs = [getattr(frozen.layers[index], name)(*given)]
            if hasattr(cache, name):
                backs.append(getattr(frozen, name)(*given, index))
            for back in backs:
                assert back is one if len(given) == 1 else back == given
        for name in ("get_conv_state", "get_recurrent_state"):
            if hasattr(cache, name) and "update_conv_state" in dir(layer):
                getattr(frozen, name)(index, state_idx=0).zero_()
        frozen.layers[index].anything = one
    assert kinds > {"update"}
    after = states(cache)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
