"""Mistakes with Mllama that raise no error, and that are not made here."""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from tests.families.cases.cross_attention import build_mllama, mllama_inputs
from tests.helpers.explained import explained, relative_error
from torch import Tensor

TARGETS = torch.tensor([[20, 30, 40, 50]])


def logits_of(model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
    return logits


def test_without_the_mask_implementations_differ_and_the_input_is_refused() -> None:
    eager, sdpa = (build_mllama(0, name) for name in ("eager", "sdpa"))
    inputs = mllama_inputs(0, 3)
    same = relative_error(logits_of(sdpa, inputs), logits_of(eager, inputs))
    assert same < 1e-5
    del inputs["cross_attention_mask"]
    assert relative_error(logits_of(sdpa, inputs), logits_of(eager, inputs)) > 0.01
    with pytest.raises(ValueError, match="no 'cross_attention_mask'"):
        VLMAttribution(LayerDexAR(sdpa)).attribute(inputs, [5])


def test_the_mask_grows_by_its_last_row() -> None:
    model: Any = build_mllama(0, "sdpa")
    inputs = mllama_inputs(0, 3)
    length = inputs["input_ids"].shape[1]
    whole = DecodingSteps(Prompt(model, inputs), TARGETS).full_pass()
    mask = whole.inputs["cross_attention_mask"]
    assert torch.equal(
        mask[:, length:], mask[:, length - 1 : length].expand(-1, 3, -1, -1)
    )
    with torch.no_grad():
        logits = whole.logits()
        step_by_step = [
            model(**prefix).logits[:, -1]
            for prefix in DecodingSteps(Prompt(model, inputs), TARGETS).prefixes()
        ]
        assert relative_error(logits, torch.stack(step_by_step, dim=1)) < 1e-5
        blind = mask.clone()
        blind[:, length:] = 0
        wrong = model(**{**whole.inputs, "cross_attention_mask": blind}).logits
    assert relative_error(wrong[:, whole.query_positions][:, 1:], logits[:, 1:]) > 0.05


def test_no_attribution_falls_on_tiles_that_are_not_there() -> None:
    """Their keys exist, and have values."""
    model = build_mllama(0, "sdpa")
    inputs = mllama_inputs(0, 3)
    result = explained(model, inputs, TARGETS, head_filter=False)
    used = 3 * 10
    assert (result.token_attr[..., :used] > 0).any()
    assert (result.token_attr[..., used:] == 0).all()
    inputs["cross_attention_mask"] = torch.ones_like(inputs["cross_attention_mask"])
    unmasked = explained(model, inputs, TARGETS, head_filter=False)
    assert (unmasked.token_attr[..., used:] > 0).any()
