"""Attention modules that choose keys, and layers that keep the prompt: both engines
equal plain autograd at the softmax itself."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.attention_gradients import ClosedForm
from captum_dexar.methods import layer_dexar
from tests.families.cases import chosen_keys, kept_prompt, llava, step3p7
from tests.helpers.explained import explained, relative_error
from tests.helpers.family_case import FamilyCase, left_padded_batch
from tests.helpers.independent import decoder_layers, exact, independent, Reference
from tests.helpers.softmax_level import by_softmax
from torch import Tensor

# More than any window or number of chosen keys.
NUM_TOKENS = 8
CASES = (*chosen_keys.CASES, *kept_prompt.CASES, *step3p7.CASES)
FIELDS = ("token_attr", "layer_attr", "head_weights", "token_weights")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@lru_cache(maxsize=None)
def setting(case: FamilyCase) -> tuple[Any, dict[str, Any], Tensor, Reference]:
    """A model, a prompt, what the model answers, and the answer's explanation."""
    model, inputs = case.model(0, case.implementations[0]), case.inputs(0, 3)
    every: Any = model
    said = every.generate(
        **inputs, max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None
    )
    answer = said[0, inputs["input_ids"].shape[1] :]
    on_own_cache = case in kept_prompt.CASES
    right = by_softmax(exact(model), inputs, answer, on_own_cache)
    return model, inputs, answer, right


@every_case
@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_both_engines_equal_the_softmax(case: FamilyCase, engine: str) -> None:
    model, inputs, answer, right = setting(case)
    ours = explained(model, inputs, answer[None], engine=engine)
    for name in FIELDS:
        given = getattr(ours, name)[0]
        assert relative_error(given, getattr(right, name)) <= case.tolerance, name
    torch.testing.assert_close(
        ours.token_log_probs[0].double(), right.token_log_probs, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("case", chosen_keys.CASES, ids=lambda case: case.name)
def test_layers_that_choose_keys_are_replayed(
    case: FamilyCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their graphs of whole passes, which are slow, are not needed."""
    model, inputs, answer, _ = setting(case)
    replays: list[bool] = []

    def closed_form(*args: Any, **kwargs: Any) -> ClosedForm:
        replays.append(kwargs.get("replays", True))
        return ClosedForm(*args, **kwargs)

    monkeypatch.setattr(layer_dexar, "ClosedForm", closed_form)
    explained(model, inputs, answer[None])
    assert replays == [True]
    replays.clear()
    gen_args = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}
    VLMAttribution(LayerDexAR(model)).attribute(inputs, gen_args=gen_args)
    # From what generating has recorded.
    assert replays == []


@every_case
def test_the_maps_do_not_depend_on_the_tokens_per_pass(case: FamilyCase) -> None:
    model, inputs, answer, right = setting(case)
    ours = explained(model, inputs, answer[None], max_tokens_per_pass=3)
    assert relative_error(ours.token_attr[0], right.token_attr) <= case.tolerance


@pytest.mark.parametrize(
    "case",
    [case for case in chosen_keys.CASES if case.can_be_padded],
    ids=lambda case: case.name,
)
def test_long_answers_in_a_left_padded_batch(case: FamilyCase) -> None:
    """The same keys are chosen as for single prompts, beyond their number, too."""
    model = case.model(0, case.implementations[0])
    examples = [case.inputs(0, 2), case.inputs(1, 6)]
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(4, 80, (2, NUM_TOKENS + 4), generator=generator)
    batch = explained(model, left_padded_batch(model, examples), answers)
    for row, example in enumerate(examples):
        single = explained(model, example, answers[row : row + 1])
        for name in FIELDS:
            ours, theirs = getattr(batch, name)[row], getattr(single, name)[0]
            assert relative_error(ours, theirs) <= case.tolerance, name


def test_both_references_agree() -> None:
    case = llava.CASES[0]
    model, inputs = exact(case.model(0, "eager")), case.inputs(0, 3)
    answer = torch.tensor([7, 8, 9])
    one, other = independent(model, inputs, answer), by_softmax(model, inputs, answer)
    for name in FIELDS:
        assert relative_error(getattr(one, name), getattr(other, name)) <= 1e-6


@every_case
def test_the_cases_are_what_they_stand_for(case: FamilyCase) -> None:
    """Some keys of the prompt are not read, or heads differ, or tokens are dropped."""
    model, inputs, answer, _ = setting(case)
    config = model.config.get_text_config()
    length = inputs["input_ids"].shape[1] + len(answer)
    if case.name == "unlimited_ocr":
        assert config.sliding_window < len(answer)
    elif case.name == "step3p7":
        heads = {layer.self_attn.num_heads for layer in decoder_layers(model)}
        assert len(heads) > 1
    elif case.name == "minimax_m3_vl":
        assert config.index_block_size * config.index_topk_blocks < length
    else:
        chosen = getattr(config, "index_topk", None) or config.indexer_budget
        assert chosen < inputs["input_ids"].shape[1]
