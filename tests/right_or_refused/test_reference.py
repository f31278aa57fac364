"""The independent reference agrees with the package's own, in every family."""

import pytest
import torch
from tests.families.cases import CASES, other_grids
from tests.helpers.explained import explained, relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.independent import exact, independent, WITHOUT_REFERENCE
from tests.helpers.softmax_level import by_softmax

ANSWER = torch.tensor([40, 7])
# Where all of that answer's maps are zero.
OTHER_ANSWERS = {
    "minicpmv4_6": torch.tensor([70, 31]),
    "minicpmv4_7": torch.tensor([70, 31]),
}
FIELDS = ("token_attr", "head_weights", "layer_attr", "token_log_probs")


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if not case.has_own_tests and case.name not in WITHOUT_REFERENCE
    ],
    ids=lambda case: case.name,
)
def test_independent_equals_autograd(case: FamilyCase) -> None:
    model = case.model(1, case.implementations[0])
    inputs = case.inputs(1, 3)
    answer = OTHER_ANSWERS.get(case.name, ANSWER)
    right = independent(exact(model), inputs, answer)
    theirs = explained(model, inputs, answer[None], engine="autograd")
    for name in FIELDS:
        value = getattr(theirs, name)
        assert relative_error(value[0], getattr(right, name)) <= 1e-6
    torch.testing.assert_close(
        theirs.token_weights[0].double(),
        right.token_weights,
        rtol=1e-6,
        atol=1e-6 * float(right.head_weights.max()),
    )


@pytest.mark.skipif(
    "gemma4_unified" not in other_grids.VARIANTS, reason="not in this transformers"
)
def test_keys_whose_probability_is_rounded_to_zero_may_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large heads make scores so different that float32, in which eager attention takes
    the softmax, has no probability for some keys. Their gradients are not zero."""
    name = "gemma4_unified"
    text = other_grids.CONFIGS[name]["text_config"]
    monkeypatch.setitem(text, "global_head_dim", 512)
    model, inputs = other_grids.build(name, seed=1), other_grids.inputs(name, 1, 3)
    right = by_softmax(exact(model), inputs, ANSWER)
    theirs = independent(exact(model), inputs, ANSWER)
    others = [[getattr(theirs, field) for field in FIELDS]]
    for engine in ("closed_form", "autograd"):
        ours = explained(model, inputs, ANSWER[None], engine=engine)
        others.append([getattr(ours, field)[0] for field in FIELDS])
    for values in others:
        for field, value in zip(FIELDS, values):
            assert relative_error(value, getattr(right, field)) <= 1e-5, field
