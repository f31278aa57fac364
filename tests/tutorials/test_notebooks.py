"""Every tutorial is stored as a reader should find it; a script runs them."""

import ast
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted((PROJECT / "tutorials").glob("*.ipynb"))
INSTALL = """\
import importlib.util

if importlib.util.find_spec("captum_dexar") is None:
    %pip install --quiet captum_dexar-*.whl"""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Any:
    return request.param


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_is_valid_and_small(path: Path) -> None:
    nbformat.validate(nbformat.read(path, 4))
    assert path.stat().st_size < 2_000_000


def test_begins_by_installing_what_is_missing(path: Path) -> None:
    assert code_cells(path)[0].source == INSTALL


def test_ran_in_order_without_warnings(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


def test_ends_with_a_check(path: Path) -> None:
    tree = ast.parse(code_cells(path)[-1].source)
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


@pytest.mark.parametrize("page", ["docs/index.md", "tutorials/README.md"])
def test_is_listed(path: Path, page: str) -> None:
    name = path.stem if page.startswith("docs") else path.name
    assert name in (PROJECT / page).read_text()
