"""Versions that are too old are refused in one sentence; newer ones are not."""

import re
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import captum_dexar
import pytest
from captum_dexar import compatibility
from captum_dexar.compatibility import check_versions, OLDEST, OLDEST_PYTHON
from captum_dexar.families import adapter_for_config, families_table

ROOT = Path(__file__).parents[1]
GOOD = {"torch": "2.6.0+cu124", "captum": "0.9.0", "transformers": "5.20.0"}


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Other versions than those that are installed, None for a missing package."""

    def version(package: str) -> str:
        found = {**GOOD, **versions}[package]
        if found is None:
            raise PackageNotFoundError(package)
        return found

    monkeypatch.setattr(compatibility, "version", version)


@pytest.mark.parametrize(
    "versions",
    [
        {},
        {"torch": "3.0.0.dev20270101", "captum": "1.0rc1", "transformers": "6.0"},
        {"torch": "2.13.0+cpu", "transformers": "5.23.0.dev0"},
        # Without metadata nothing is known; importing it says what is wrong.
        {"torch": None},
    ],
)
def test_supported_versions(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None]
) -> None:
    pretend(monkeypatch, **versions)
    check_versions()


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        (
            {"transformers": "4.57.6"},
            "captum_dexar needs transformers>=5.20, but transformers 4.57.6 is "
            'installed: run pip install -U "transformers>=5.20"',
        ),
        (
            {"torch": "2.5.1+cu121", "captum": "0.8.0"},
            "captum_dexar needs torch>=2.6 and captum>=0.9, but torch 2.5.1+cu121 and "
            'captum 0.8.0 is installed: run pip install -U "torch>=2.6" "captum>=0.9"',
        ),
    ],
)
def test_older_versions_are_refused(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None], message: str
) -> None:
    pretend(monkeypatch, **versions)
    with pytest.raises(ImportError) as refused:
        check_versions()
    assert str(refused.value) == message


def test_an_older_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    with pytest.raises(ImportError, match="needs Python 3.10 or newer, and this is Py"):
        check_versions()


def test_importing_the_package_checks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, torch="2.5.0")
    with pytest.raises(ImportError, match="needs torch>=2.6, but torch 2.5.0 is inst"):
        exec(Path(captum_dexar.__file__).read_text(), {"__name__": "again"})


def test_a_family_can_need_a_newer_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch)
    with pytest.raises(TypeError, match="'fuyu' need transformers>=5.21, but trans"):
        adapter_for_config(SimpleNamespace(model_type="fuyu"))
    missing = families_table().rpartition("Not in the installed transformers ")[2]
    assert re.search(r"\bfuyu\b", missing)
    pretend(monkeypatch, transformers="5.21.0")
    assert adapter_for_config(SimpleNamespace(model_type="fuyu")).name == "Fuyu"


def test_the_same_versions_are_declared() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    oldest = (ROOT / "constraints-oldest.txt").read_text()
    for package, (major, minor) in OLDEST.items():
        assert f'"{package}>={major}.{minor}"' in declared
        assert re.search(rf"^{package}=={major}\.{minor}\.", oldest, re.MULTILINE)
    assert 'requires-python = ">={}.{}"'.format(*OLDEST_PYTHON) in declared
