"""Every example in a docstring runs, and prints what it says."""

import doctest
import importlib
import pkgutil

import captum_dexar
import pytest

MODULES = [
    module.name
    for module in pkgutil.walk_packages(captum_dexar.__path__, "captum_dexar.")
    if not module.name.endswith("__main__")
]


# What modules need that is only installed with an extra.
EXTRAS = {"captum_dexar.app.interface": "gradio"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS
    )
    assert results.failed == 0


def test_public_names_have_examples() -> None:
    finder = doctest.DocTestFinder()
    for name in captum_dexar.__all__:
        examples = [
            example
            for test in finder.find(getattr(captum_dexar, name), name)
            for example in test.examples
        ]
        assert examples, f"{name} has no example in its docstring"
