"""A page in a browser, and a result to show on it."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from captum_dexar import VLMAttributionResult
from tests.helpers.browser import OpenPage
from tests.result.pages import made, Open


@pytest.fixture(name="show")
def _show(browser: Any, tmp_path: Path) -> Open:
    number = itertools.count()
    return lambda html: OpenPage(browser, html, tmp_path / f"page{next(number)}.html")


@pytest.fixture(name="result", scope="module")
def _result() -> VLMAttributionResult:
    return made()
