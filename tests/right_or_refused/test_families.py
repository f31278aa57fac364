"""Lists, beams, caches and guidance in every family."""

import pytest
import torch
from tests.families.cases import CASES, DISTINCT
from tests.helpers.family_case import FamilyCase
from tests.helpers.in_double import in_double
from tests.helpers.independent import WITHOUT_REFERENCE
from tests.right_or_refused.argument import GREEDY, values
from tests.right_or_refused.cells import outcome
from tests.right_or_refused.settings import setting_of
from tests.right_or_refused.ways import ATTRIBUTE, LIST, PADDED_LIST, STREAM

SHORT = {**GREEDY, "max_new_tokens": 2}
GREEDILY = values(eos_token_id=None, base=SHORT)
CELLS = {
    "list": (GREEDILY, LIST),
    "list of different lengths": (GREEDILY, PADDED_LIST),
    "list with beams": (values(num_beams=2, base=SHORT), PADDED_LIST),
    "stream on a static cache": (
        values(cache_implementation="static", base=SHORT),
        STREAM,
    ),
    "guidance": (values(guidance_scale=1.5, base=SHORT), ATTRIBUTE),
}


# Attributions of image tokens that are queries are spread, see test_queries.py.
PLACED = [
    case
    for case in CASES
    if case.places is None
    and not case.has_own_tests
    and case.name not in WITHOUT_REFERENCE
]


def cells_of(case: FamilyCase) -> list[str]:
    """What may differ between families; the whole row for those that differ most."""
    if case in DISTINCT:
        return list(CELLS)
    lists = "list of different lengths" if case.can_be_padded else "list"
    return [lists, "list with beams", "stream on a static cache"]


@pytest.mark.parametrize(
    ("case", "cell"),
    [
        pytest.param(case, cell, id=f"{case.name}-{cell}")
        for case in PLACED
        for cell in cells_of(case)
    ],
)
def test_every_family(case: FamilyCase, cell: str) -> None:
    argument, way = CELLS[cell]
    with in_double(case.name):
        of_cell = outcome(setting_of(case.name, dtype=torch.float64), argument, way)
    assert of_cell.kind in ("right", "refused"), of_cell.text
