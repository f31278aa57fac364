"""The README has the tables of what is tested."""

import re
from pathlib import Path

import pytest
from tests.big_models.table import TABLES

README = Path(__file__).parent / "README.md"


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_has_the_table(name: str) -> None:
    pattern = rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->"
    (table,) = re.findall(pattern, README.read_text(encoding="utf-8"), re.DOTALL)
    assert table == TABLES[name]()


def test_the_files_that_the_readme_names_exist() -> None:
    names = re.findall(r"\]\((\w+\.py)\)", README.read_text(encoding="utf-8"))
    assert names and all((README.parent / name).is_file() for name in names)
