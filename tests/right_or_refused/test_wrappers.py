"""A hook, an adapter or a subclass on the model: right, or refused."""

import pytest
import torch
from tests.right_or_refused.arguments import named
from tests.right_or_refused.cells import outcome
from tests.right_or_refused.settings import setting_of
from tests.right_or_refused.ways import ATTRIBUTE, GIVEN, PADDED_LIST, STREAM, Way
from tests.right_or_refused.wrappers import Wrapper, WRAPPERS

CELLS = (
    ("eos_token_id=None", ATTRIBUTE),
    ("eos_token_id=None", STREAM),
    ("eos_token_id=None", GIVEN),
    ("num_beams=2", PADDED_LIST),
)


@pytest.mark.parametrize(("name", "way"), CELLS, ids=str)
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.name)
@pytest.mark.parametrize("family", ["llava", "gemma3", "florence2", "mllama"])
def test_wrapped(family: str, wrapper: Wrapper, name: str, way: Way) -> None:
    setting = setting_of(family, wrapper.name, torch.float64)
    of_cell = outcome(setting, named(name), way)
    assert of_cell.kind in ("right", "refused"), of_cell.text
