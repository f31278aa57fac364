"""What all benchmarks share: sizes, one thread, and the table of ratios at the end."""

import json
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from tests.benchmarks.machine import machine, threads
from tests.benchmarks.ratios import RatioTable
from tests.benchmarks.sizes import FULL, QUICK, Sizes

RESULTS = "benchmark-results"
TABLE = pytest.StashKey[RatioTable]()
SAVED = pytest.StashKey[str]()
SMOKE_RUN = (
    "**A smoke run**: sizes are too small for the ratios to mean anything. They are "
    "compared with no limit."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="small sizes, compared with no limit"
    )


def _is_quick(config: pytest.Config) -> bool:
    return bool(config.getoption("--quick", default=False))


@pytest.fixture(name="sizes", scope="session")
def _sizes(pytestconfig: pytest.Config) -> Sizes:
    return QUICK if _is_quick(pytestconfig) else FULL


@pytest.fixture(name="ratios", scope="session")
def _ratios(pytestconfig: pytest.Config) -> RatioTable:
    table = RatioTable(is_smoke_run=_is_quick(pytestconfig))
    pytestconfig.stash[TABLE] = table
    return table


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Saves the table. A part of it does not replace the whole."""
    config = session.config
    table = config.stash.get(TABLE, None)
    if table is None:
        return
    facts = machine()
    chosen = config.getoption("keyword", default="")
    heading = [", ".join(f"{name} {fact}" for name, fact in facts.items()) + "."]
    if table.is_smoke_run:
        heading.insert(0, SMOKE_RUN)
    if chosen:
        heading.insert(0, f"Only what `-k {chosen}` chooses.")
    name = "ratios" + "-quick" * table.is_smoke_run + "-part" * bool(chosen)
    folder = config.rootpath / RESULTS
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(table.markdown(heading))
    saved: dict[str, Any] = {"machine": facts, "chosen": chosen, **table.as_json()}
    (folder / f"{name}.json").write_text(json.dumps(saved, indent=2) + "\n")
    config.stash[SAVED] = f"{RESULTS}/{name}.md and .json"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: Any
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A benchmark that breaks is not silently absent from the table."""
    report = yield
    table = item.config.stash.get(TABLE, None)
    if report.failed and table is not None:
        table.not_measured(item.name, "it failed")
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    table = config.stash.get(TABLE, None)
    if table is None:
        return
    terminalreporter.section("ratios")
    if table.is_smoke_run:
        terminalreporter.write_line(SMOKE_RUN.replace("**", ""))
    for line in table.lines():
        terminalreporter.write_line(line)
    for title, text in table.sections:
        terminalreporter.write_line(f"\n{title}\n{text}")
    terminalreporter.write_line(f"\nSaved as {config.stash[SAVED]}.")
