"""The independent reference agrees with the package's own, in every family."""

import pytest
import torch
from tests.families.cases import CASES
from tests.helpers.explained import explained, relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.independent import exact, independent, WITHOUT_REFERENCE

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
