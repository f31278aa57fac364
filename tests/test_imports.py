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


@pytest.mark.parametrize("module", ["shapes", "metrics", "baselines", "inputs"])
def test_modules_are_attributes(module: str) -> None:
    code = f"import captum_dexar; print(captum_dexar.{module}.__name__)"
    assert _run(code) == f"captum_dexar.{module}"


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="'captum_dexar' has no attribute 'x'"):
        captum_dexar.x  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'x'"):
        from captum_dexar import x  # type: ignore[attr-defined]  # noqa: F401
    with pytest.raises(AttributeError, match="comparison' has no attribute 'x'"):
        captum_dexar.comparison.x  # type: ignore[attr-defined]
