"""The script that runs the tutorials notices when they print something else."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

PATH = Path(__file__).parents[2] / "tutorials/run_notebook.py"
SCRIPT = runpy.run_path(str(PATH))
same_line, changes = SCRIPT["same_line"], SCRIPT["changes"]


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ("white  weight  0.806", "white  weight  0.810"),
        ("weight 9.99, delta -0.000", "weight 10.05,   delta 0.000"),
        ("pointing 0.67", "pointing 0.69"),
        ("[99.5, 1e-05]", "[101, 2.5E-6]"),
        ("1000.0 of 54 words", "1019.0 of 54 words"),
        ("float32 on torch 2.6.0", "float32 on torch 2.6.0"),
    ],
)
def test_numbers_within_tolerance_are_the_same(stored: str, fresh: str) -> None:
    assert same_line(stored, fresh)


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ("weight 0.806", "weight 0.84"),
        ("weight 0.5", "weight -0.5"),
        ("1000.0 of 54 words", "1021.0 of 54 words"),
        ("of 54 words", "of 52 words"),
        ("pointing 0.67", "pointing nan"),
        ("a red cross", "a blue cross"),
        ("float32", "float16"),
        ("torch 2.6.0", "torch 2.6.1"),
        ("0.5 0.5", "0.5"),
        ("number #", "number 1"),
    ],
)
def test_other_numbers_and_words_are_not(stored: str, fresh: str) -> None:
    assert not same_line(stored, fresh)
    assert not same_line(fresh, stored)


def notebook(*cells: tuple[str, str], tags: tuple[str, ...] = ()) -> Any:
    """A notebook of code cells and what each has printed."""
    v4 = nbformat.v4
    return v4.new_notebook(
        cells=[
            v4.new_code_cell(
                source,
                metadata={"tags": list(tags)},
                outputs=[v4.new_output("stream", text=printed)] if printed else [],
            )
            for source, printed in cells
        ]
    )


def test_a_change_names_cell_and_lines() -> None:
    stored = notebook(("x = 1", ""), ("show(x)\nshow(y)", "x 1.0\ny 2.0\n"))
    fresh = notebook(("x = 1", ""), ("show(x)\nshow(y)", "x 1.0\ny 3.0\nz\n"))
    assert list(changes(stored, fresh)) == [
        "cell 1: show(x)\n  stored: y 2.0\n  fresh:  y 3.0",
        "cell 1: show(x)\n  stored: (no line)\n  fresh:  z",
    ]
    assert not list(changes(stored, stored))


def test_cells_that_vary_are_left_out() -> None:
    stored = notebook(("time()", "1 s"), tags=("varies",))
    assert not list(changes(stored, notebook(("time()", "7 s"), tags=("varies",))))


def test_values_count_but_pictures_and_warnings_do_not() -> None:
    v4 = nbformat.v4

    def with_outputs(value: str) -> Any:
        made = notebook(("f()", ""))
        made.cells[0].outputs = [
            v4.new_output("execute_result", data={"text/plain": value}),
            v4.new_output("display_data", data={"text/plain": value, "image/png": ""}),
            v4.new_output("stream", name="stderr", text=value),
        ]
        return made

    assert list(changes(with_outputs("1"), with_outputs("2"))) == [
        "cell 0: f()\n  stored: 1\n  fresh:  2"
    ]


def run_script(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PATH), str(path), str(path.parent / "run")]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_runs_in_a_kernel(tmp_path: Path) -> None:
    path = tmp_path / "small.ipynb"
    made = notebook(("x = 2", ""), ("print('x is', x)\nx * 2.5", "x is 3"))
    made.cells.append(nbformat.v4.new_markdown_cell("The end."))
    nbformat.write(made, path)

    failed = run_script(path)
    assert failed.returncode == 1
    assert (
        "cell 1: print('x is', x)\n  stored: x is 3\n  fresh:  x is 2" in failed.stderr
    )
    assert "stored: (no line)\n  fresh:  5.0" in failed.stderr
    assert nbformat.read(path, 4) == made  # only --write changes it

    assert run_script(path, "--write").returncode == 0
    assert run_script(path).returncode == 0


def test_a_failing_cell_fails(tmp_path: Path) -> None:
    path = tmp_path / "failing.ipynb"
    nbformat.write(notebook(("assert 1 > 2, 'a check'", "")), path)
    failed = run_script(path, "--write")
    assert failed.returncode == 1 and "a check" in failed.stderr
    assert not nbformat.read(path, 4).cells[0].outputs
