"""Public names, imported when they are first used."""

import pickle
import subprocess
import sys

import captum_dexar
import pytest

SLOW = ("torch", "captum", "transformers", "matplotlib", "numpy")


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import captum_dexar; captum_dexar.__version__; dir(captum_dexar)",
        "import captum_dexar.cli",
        "from captum_dexar.comparison import METHODS, named_methods",
        "from captum_dexar.cli import main; main(['compare', '--methods', 'nothing'])",
        "from captum_dexar.cli import main; main(['evaluate', '--seed', '-1'])",
        "from captum_dexar.cli import main; main(['demo', '--layers', 'nothing'])",
    ],
)
def test_nothing_slow_is_imported(code: str) -> None:
    loaded = f"import sys; print([name for name in {SLOW} if name in sys.modules])"
    assert _run(f"{code}\n{loaded}") == "[]"


@pytest.mark.parametrize("name", captum_dexar.__all__)
def test_every_public_name_is_there(name: str) -> None:
    public = getattr(captum_dexar, name)
    assert public.__name__ == name and public.__module__.startswith("captum_dexar.")
    assert name in dir(captum_dexar)
    assert pickle.loads(pickle.dumps(public)) is public


def test_a_star_import_gives_all_of_them() -> None:
    names: dict[str, object] = {}
    exec("from captum_dexar import *", names)
    assert set(captum_dexar.__all__) <= set(names)


def test_modules_are_attributes() -> None:
    """Each in a package that has just been imported; what it needs is not again."""
    names = ["shapes", "metrics", "baselines", "inputs"]
    code = f"""
import importlib, sys
for name in {names}:
    for module in [one for one in sys.modules if one.startswith("captum_dexar")]:
        del sys.modules[module]
    package = importlib.import_module("captum_dexar")
    print(getattr(package, name).__name__)
"""
    assert _run(code).split() == [f"captum_dexar.{name}" for name in names]


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="'captum_dexar' has no attribute 'x'"):
        captum_dexar.x  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'x'"):
        from captum_dexar import x  # type: ignore[attr-defined]  # noqa: F401
    with pytest.raises(AttributeError, match="comparison' has no attribute 'x'"):
        captum_dexar.comparison.x  # type: ignore[attr-defined]
