"""On every variant the closed form equals plain autograd, whatever the pass."""

import copy
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.inputs import Prompt
from tests.families.cases import CASES, DISTINCT
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.family_case import FamilyCase, left_padded_batch
from tests.helpers.in_double import everything_in_double
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor

NUM_TARGETS = 4

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
distinct_cases = pytest.mark.parametrize("case", DISTINCT, ids=lambda case: case.name)


@lru_cache(maxsize=4)
def model_of(case: FamilyCase, seed: int, implementation: str) -> nn.Module:
    return case.model(seed, implementation)


def targets_of(case: FamilyCase, model: nn.Module, seed: int) -> Tensor:
    """What the model itself generates."""
    # BLIP sets the end itself.
    ending = {} if case.name == "blip" else {"eos_token_id": -1}
    result = VLMAttribution(LayerDexAR(model)).attribute(
        case.inputs(seed, 3),
        gen_args={"max_new_tokens": NUM_TARGETS, "do_sample": False, **ending},
        places=case.places,
    )
    return result.target_ids[None]


def check_closed_form(case: FamilyCase, seed: int, implementation: str) -> None:
    model = model_of(case, seed, implementation)
    inputs = case.inputs(seed, 3)
    targets = targets_of(case, model, seed)
    reference = explained(model, inputs, targets, engine="autograd")
    assert (reference.head_weights > 0).any()
    assert_same(explained(model, inputs, targets), reference, case.tolerance)


@every_case
def test_closed_form_equals_autograd(case: FamilyCase) -> None:
    for implementation in case.implementations:
        check_closed_form(case, 0, implementation)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.tolerance > CASES[0].tolerance],
    ids=lambda case: case.name,
)
def test_less_exact_families_are_so_in_float32_only(case: FamilyCase) -> None:
    given = model_of(case, 0, case.implementations[0])
    targets = targets_of(case, given, 0)
    model = copy.deepcopy(given).double()
    inputs = {
        name: value.double() if value.is_floating_point() else value
        for name, value in case.inputs(0, 3).items()
    }
    with everything_in_double():
        reference = explained(model, inputs, targets, engine="autograd")
        ours = explained(model, inputs, targets)
    for name in ("token_attr", "layer_attr", "head_weights"):
        error = relative_error(getattr(ours, name), getattr(reference, name))
        assert error <= 1e-11, name


@distinct_cases
def test_closed_form_equals_autograd_with_other_weights(case: FamilyCase) -> None:
    check_closed_form(case, 1, case.implementations[0])


@distinct_cases
def test_attention_power_equals_autograd(case: FamilyCase) -> None:
    model = model_of(case, 0, case.implementations[0])
    inputs, targets = case.inputs(0, 3), targets_of(case, model, 0)
    for power in (0.5, 1.0):
        reference = explained(
            model, inputs, targets, engine="autograd", attention_power=power
        )
        ours = explained(model, inputs, targets, attention_power=power)
        assert_same(ours, reference, case.tolerance)


@distinct_cases
def test_full_pass_equals_the_pass_that_is_used(case: FamilyCase) -> None:
    model = model_of(case, 0, case.implementations[0])
    inputs, targets = case.inputs(0, 3), targets_of(case, model, 0)

    class FullPass(DecodingSteps):
        def passes(self, cache: Any = None, max_tokens: Any = None) -> Any:
            yield self.full_pass()

    steps = FullPass(Prompt(model, inputs), targets)
    full = LayerDexAR(model).attribute_steps(steps)
    assert_same(explained(model, inputs, targets), full, case.tolerance)


@distinct_cases
def test_generated_equals_teacher_forced(case: FamilyCase) -> None:
    model = model_of(case, 0, case.implementations[0])
    method = VLMAttribution(LayerDexAR(model))
    inputs = case.inputs(0, 3)
    with untouched(warm(model, inputs)):
        generated = method.attribute(
            inputs, gen_args={"max_new_tokens": 5}, places=case.places
        )
        given = method.attribute(
            inputs, target=generated.target_ids, places=case.places
        )
    torch.testing.assert_close(
        generated.token_attr, given.token_attr, rtol=case.tolerance, atol=1e-6
    )
    torch.testing.assert_close(
        generated.token_log_probs, given.token_log_probs, rtol=1e-4, atol=1e-4
    )


@every_case
def test_left_padded_batch_equals_singles(case: FamilyCase) -> None:
    if not case.can_be_padded:
        pytest.skip("prompts of this family are not padded on the left")
    model = model_of(case, 0, case.implementations[0])
    examples = [case.inputs(0, 2), case.inputs(1, 6)]
    targets = torch.cat([targets_of(case, model, seed) for seed in (0, 1)])
    batch = explained(model, left_padded_batch(model, examples), targets)
    for row, example in enumerate(examples):
        single = explained(model, example, targets[row : row + 1])
        assert_same(_row(batch, row), single, case.tolerance)


def _row(batch: StepAttributions, row: int) -> StepAttributions:
    tensors: dict[str, Any] = {
        name: value[row : row + 1]
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    return StepAttributions(**tensors, layer_indices=batch.layer_indices)
