"""Lists, beams, caches and guidance in every family."""

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.families.cases import CASES
from tests.helpers.explained import relative_error
from tests.right_or_refused.argument import Argument, made, values
from tests.right_or_refused.cells import outcome
from tests.right_or_refused.settings import setting_of
from tests.right_or_refused.ways import ATTRIBUTE, PADDED_LIST, STREAM, Way

SHORT = {"max_new_tokens": 2, "do_sample": False, "eos_token_id": None}
CELLS = {
    "list": (values("greedily", "$", base=SHORT, do_sample=False), PADDED_LIST),
    "list with beams": (values(num_beams=2, base=SHORT), PADDED_LIST),
    "stream on a static cache": (
        values(cache_implementation="static", base=SHORT),
        STREAM,
    ),
    "guidance": (values(guidance_scale=1.5, base=SHORT), ATTRIBUTE),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_family(case) -> None:
    setting = setting_of(case.name)
    for name, (argument, way) in CELLS.items():
        of_cell = outcome(setting, argument, way)
        assert of_cell.kind in ("right", "refused"), (name, of_cell.text)
