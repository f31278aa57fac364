"""A hook, an adapter or a subclass on the model: right, or refused."""

import pytest
from tests.right_or_refused.arguments import named
from tests.right_or_refused.cells import outcome
from tests.right_or_refused.settings import setting_of
from tests.right_or_refused.ways import ATTRIBUTE, GIVEN, PADDED_LIST, STREAM
from tests.right_or_refused.wrappers import Wrapper, WRAPPERS

CELLS = (
    ("eos_token_id=None", ATTRIBUTE),
    ("eos_token_id=None", STREAM),
    ("eos_token_id=None", GIVEN),
    ("num_beams=2", PADDED_LIST),
    ("cache_implementation='static'", STREAM),
)


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.name)
@pytest.mark.parametrize("family", ["llava", "gemma3", "florence2", "mllama"])
def test_wrapped(family: str, wrapper: Wrapper) -> None:
    setting = setting_of(family, wrapper.name)
    for name, way in CELLS:
        of_cell = outcome(setting, named(name), way)
        assert of_cell.kind in ("right", "refused"), (name, way.name, of_cell.text)
