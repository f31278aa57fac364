"""The table of families is the registry, and says what is checked."""

import re
from functools import lru_cache
from pathlib import Path

import pytest
from captum_dexar.cli import main
from captum_dexar.compatibility import (
    installed,
    missing_model,
    OLDEST_TORCH_OF,
    OLDEST_TRANSFORMERS_OF,
)
from captum_dexar.families import adapter_for_config, families_table, known_families
from tests.families.cases import CASES
from tests.families.test_gradients import model_of

README = Path(__file__).parents[2] / "captum_dexar/families/README.md"


@lru_cache
def configs() -> tuple[tuple[object, float], ...]:
    """The configuration of every case's model, and the error that it is allowed."""
    needy = (*OLDEST_TRANSFORMERS_OF, *OLDEST_TORCH_OF)
    missing = [kind for kind in needy if missing_model(kind)]
    return tuple(
        (model_of(case, 0, case.implementations[0]).config, case.tolerance)
        for case in CASES
        # As they are skipped in ``conftest.py``.
        if not any(kind in case.name for kind in missing)
    )


def test_the_readme_has_the_table() -> None:
    pattern = r"<!-- families -->\n(.*?)\n<!-- /families -->"
    (table,) = re.findall(pattern, README.read_text(), re.DOTALL)
    # Model types that an older transformers lacks are listed below the table.
    assert table == families_table().split("\n\n")[0]


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    assert capsys.readouterr().out.strip() == families_table()


def test_every_type_has_a_case_and_no_other() -> None:
    """That no type is forgotten is tested in ``test_every_type.py``."""
    listed = [kind for adapter in known_families() for kind in adapter.model_types]
    there = {kind for kind in listed if missing_model(kind) is None}
    cases = {str(getattr(config, "model_type")) for config, _ in configs()}
    assert (
        cases == there
    ), f"without a case: {sorted(there - cases)}; not listed: {sorted(cases - there)}"


def test_the_error_in_the_table_is_the_one_that_is_allowed() -> None:
    allowed: dict[str, float] = {}
    for config, tolerance in configs():
        name = adapter_for_config(config).name
        allowed[name] = max(allowed.get(name, 0.0), tolerance)
    # Before torch 2.7 ten times as much is allowed.
    scale = 10 if (installed("torch") or (2, 7)) < (2, 7) else 1
    for adapter in known_families():
        if adapter.name in allowed:
            assert allowed[adapter.name] <= scale * adapter.largest_error * 1.001
