"""What is printed and written of a result, wherever it is printed to."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.cli import main
from captum_dexar.cli.reports import RESULT
from tests.cli.terminals import a_file, a_pipe_that_nobody_reads, a_terminal
from tests.result.test_result import make_result

COLOUR = re.compile("\x1b\\[(0|38;5;[0-9]+(;48;5;[0-9]+)?)m")
# A terminal that knows colours.
KNOWN = "xterm-256color"
HOSTILE = [
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egnp",
    "a\x00b",
    "=cmd|' /C calc'!A0",
    "<script>",
    "红色",
    "x" * 10_000,
    "@a",
]
OUTPUTS = {"layers.png", "page.html", "sequence.png", "tokens.csv", "tokens.png"}
# Of a result whose image is not known, which takes less time to show.
FEW_OUTPUTS = {"page.html", "tokens.csv"}


def hostile_result() -> VLMAttributionResult:
    number = len(HOSTILE)
    generator = torch.Generator().manual_seed(0)
    attr = torch.rand(number, 8, generator=generator)
    return make_result(
        output_tokens=HOSTILE,
        answer=" ".join(HOSTILE),
        target_ids=torch.arange(number),
        token_attr=attr,
        seq_attr=attr.sum(0),
        placeless_attr=None,
        token_weights=torch.rand(number, generator=generator),
        token_log_probs=-torch.rand(number, generator=generator),
        head_weights=None,
        layer_attr=None,
        layer_indices=None,
        special_tokens=None,
        word_starts=None,
        images=[],
    )


@pytest.fixture(name="saved")
def _saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERM", KNOWN)
    monkeypatch.delenv("NO_COLOR", raising=False)
    path = tmp_path / "answer.dexar"
    make_result(images=[]).save(path)
    return path


def inert(text: str) -> bool:
    return all(one.isprintable() or one == "\n" for one in text)


def test_page_figures_and_table_of_a_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_result().save(saved)
    monkeypatch.chdir(saved.parent)
    assert main(["show", "answer.dexar"]) == 0
    folder = saved.parent / "answer-shown"
    assert {path.name for path in folder.iterdir()} == OUTPUTS
    printed = capsys.readouterr().out
    assert str(Path("answer-shown", "page.html")) in printed
    assert "violet" in printed and "█" in printed and inert(printed)
    page = (folder / "page.html").read_text()
    assert page == make_result().to_html()
    assert not plt.get_fignums()


def test_colours_only_in_a_terminal_that_wants_them(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["show", str(saved), "--out", str(saved.parent / "out")]
    with a_terminal(monkeypatch) as coloured:
        assert main(command) == 0
    with a_file(monkeypatch) as piped:
        assert main(command) == 0
    monkeypatch.setenv("NO_COLOR", "1")
    with a_terminal(monkeypatch) as plain:
        assert main(command) == 0
    assert COLOUR.search(coloured.text)
    assert COLOUR.sub("", coloured.text) == piped.text == plain.text
    assert inert(piped.text)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_hostile_answer_is_inert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("TERM", KNOWN)
    # So is the name of its folder.
    folder = tmp_path / "\x1b[2J\u202e"
    folder.mkdir()
    hostile_result().save(folder / RESULT)
    with a_terminal(monkeypatch, encoding) as printed:
        assert main(["show", str(folder / RESULT), "--out", str(folder)]) == 0
    text = COLOUR.sub("", printed.text)
    assert inert(text) and "\\x1b[31mred" in text and "\\u202egnp" in text
    assert "\\x1b[2J\\u202e" in text
    assert ("红" in text) == (encoding == "utf-8")
    with (folder / "tokens.csv").open(encoding="utf-8", newline="") as file:
        tokens = [row["token"] for row in csv.DictReader(file)]
    assert tokens == [
        "\\x1b[31mred\\x1b]0;title\\x07",
        "\u202egnp",
        "a\\x00b",
        "'=cmd|' /C calc'!A0",
        "<script>",
        "红色",
        "x" * 10_000,
        "'@a",
    ]


def test_errors_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "\x1b[31mnowhere"]) == 2
    assert "no result file at \\x1b[31mnowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["show", "a", "\x1b[31mb"])
    printed = capsys.readouterr().err
    assert "\\x1b[31mb" in printed and inert(printed)


def test_a_folder_is_told_from_a_file(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(saved.parent)]) == 2
    printed = capsys.readouterr().err.replace("\n", " ")
    assert f"is a folder. Name a result file in it: it holds {saved.name}." in printed
    saved.unlink()
    assert main(["show", str(saved.parent)]) == 2
    assert "file in it, such as result.dexar" in capsys.readouterr().err


def test_a_file_that_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answer.dexar"
    path.write_text("nothing")
    assert main(["show", str(path)]) == 2
    assert "not a readable result file" in capsys.readouterr().err


def test_files_are_made_though_nobody_reads(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = saved.parent / "out"
    with a_pipe_that_nobody_reads(monkeypatch):
        assert main(["show", str(saved), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == FEW_OUTPUTS
    assert capsys.readouterr().err == ""


def test_the_first_line_of_a_pipe_in_ascii(saved: Path) -> None:
    """As it is run in a shell, without any model's code."""
    out = saved.parent / "out"
    code = (
        "import sys; from captum_dexar.cli import main; done = main(sys.argv[1:]); "
        "loaded = [one for one in sys.modules if '.modeling_llava' in one or "
        "one.startswith('captum_dexar.shapes')]; sys.exit(done or len(loaded))"
    )
    python = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "show", str(saved), "--out", str(out)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert python.stdout is not None and python.stderr is not None
    assert python.stdout.readline() == b"The model:  a violet .\n"
    python.stdout.close()
    errors = python.stderr.read().decode()
    assert python.wait() == 0 and "Error" not in errors.replace("ImportError", "")
    assert {path.name for path in out.iterdir()} == FEW_OUTPUTS


def test_a_failing_figure_keeps_all_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("no room for a figure")

    monkeypatch.setattr("captum_dexar.VLMAttributionResult.plot_tokens", fail)
    make_result().save(saved)
    out = saved.parent / "out"
    assert main(["show", str(saved), "--out", str(out)]) == 1
    assert {path.name for path in out.iterdir()} == OUTPUTS - {"tokens.png"}
    printed = capsys.readouterr()
    assert "tokens.png could not be written" in printed.err
    assert "no room for a figure" in printed.err and "violet" in printed.out


def test_a_saved_result_is_shown_without_transformers(saved: Path) -> None:
    """Importing it takes as long as all else together."""
    program = (
        "import sys; from captum_dexar.cli import main; main(sys.argv[1:]);"
        "sys.exit('transformers' in sys.modules)"
    )
    arguments = ["show", str(saved), "--out", str(saved.parent / "shown")]
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.DEVNULL
    )
    assert run.returncode == 0
    assert (saved.parent / "shown" / "page.html").exists()
