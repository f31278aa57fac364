"""The command line, on a saved tiny model and on the bundled one."""

import csv
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.cli import main
from captum_dexar.comparison.methods import METHODS
from captum_dexar.shapes import make_scene
from tests.cli.terminals import a_file, a_terminal

OUTPUTS = {
    "layers.png",
    "page.html",
    "result.dexar",
    "sequence.png",
    "tokens.csv",
    "tokens.png",
}


def _explain(folder: Path, image: Path, *more: str) -> int:
    arguments = ["--model", str(folder), "--image", str(image), "--prompt", "what ?"]
    return main(["explain", *arguments, *more])


def test_explain_writes_everything(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    assert _explain(folder, image, "--max-new-tokens", "4", "--out", str(out)) == 0
    assert {path.name for path in out.iterdir()} == OUTPUTS
    result = VLMAttributionResult.load(out / "result.dexar")
    assert 1 <= len(result.output_tokens) <= 4
    with (out / "tokens.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["token"] for row in rows] == result.output_tokens
    assert [int(row["id"]) for row in rows] == result.target_ids.tolist()
    weights = [float(row["weight"]) for row in rows]
    assert weights == pytest.approx(result.token_weights.tolist())
    printed = capsys.readouterr()
    assert "weight" in printed.out and str(out / "tokens.png") in printed.out
    assert "generating" in printed.err and "explaining" in printed.err
    shown = tmp_path / "shown"
    assert main(["show", str(out / "result.dexar"), "--out", str(shown)]) == 0
    assert {path.name for path in shown.iterdir()} == OUTPUTS - {"result.dexar"}
    for path in shown.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_explain_takes_the_bundled_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = tmp_path / "photo.png", tmp_path / "out"
    scene = make_scene(3)
    scene.image.save(image)
    assert main(["explain", "--image", str(image), "--out", str(out)]) == 0
    result = VLMAttributionResult.load(out / "result.dexar")
    assert result.answer == scene.caption and result.question == "Describe the image."
    assert "The bundled model knows drawn shapes" in capsys.readouterr().err
    given = ["--prompt", "how many objects ?", "--out", str(tmp_path / "asked")]
    assert main(["explain", "--image", str(image), *given]) == 0
    asked = VLMAttributionResult.load(tmp_path / "asked" / "result.dexar")
    assert asked.question == "how many objects ?"


def test_explain_streams_the_words(
    folder: Path,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines for programs, a text in a terminal, and the same result as ever."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    few = ["--max-new-tokens", "5", "--attention-power", "0.5", "--out"]
    with a_file(monkeypatch) as lines:
        stream = ["--stream", "--every", "3", *few, str(tmp_path / "a")]
        assert _explain(folder, image, *stream) == 0
    with a_terminal(monkeypatch) as text:
        assert _explain(folder, image, "--stream", *few, str(tmp_path / "b")) == 0
    assert _explain(folder, image, *few, str(tmp_path / "c")) == 0
    whole, *streamed = (
        VLMAttributionResult.load(tmp_path / name / "result.dexar") for name in "cab"
    )
    for result in streamed:
        assert result.output_tokens == whole.output_tokens
        assert result.answer == whole.answer
        for name in ("token_attr", "seq_attr", "token_weights", "layer_attr"):
            one, other = getattr(result, name), getattr(whole, name)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    printed = [line.split("\t") for line in lines.text.splitlines()]
    words = streamed[0].words()
    assert [word for word, _ in printed] == [word.text for word in words]
    assert [weight for _, weight in printed] == [f"{w.weight:.6g}" for w in words]
    assert {path.name for path in (tmp_path / "a").iterdir()} == OUTPUTS
    plain = re.sub("\x1b\\[[0-9;]*m", "", text.text)
    assert whole.answer.strip() in plain.splitlines()[0] and "page.html" in plain


def test_explain_prints_the_error_of_a_verification(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert _explain(folder, image, "--max-new-tokens", "3", "--verify", *out) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("Verified:"))
    assert "by plain autograd" in line
    assert float(line.rpartition(" ")[2]) < 1e-4


def test_explain_takes_an_answer_and_settings(
    folder: Path, image: Path, tmp_path: Path
) -> None:
    settings = ["--dtype", "bfloat16", "--attn", "eager", "--device", "cpu"]
    chosen = ["--layers", "2,0", "--rivals", "2", "--target", "a red"]
    out = tmp_path / "out"
    assert _explain(folder, image, *settings, *chosen, "--out", str(out)) == 0
    result = VLMAttributionResult.load(out / "result.dexar")
    assert result.layer_indices == [2, 0] and len(result.output_tokens) == 2
    assert result.method == "Layer DEX-AR, rivals=2"
    with (tmp_path / "out" / "tokens.csv").open() as file:
        named = [row["rather_than"].split(" | ") for row in csv.DictReader(file)]
    assert named == result.rival_tokens and len(named[0]) == 2


def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "image.txt"
    text.write_text("no image")
    empty = tmp_path / "empty"
    empty.mkdir()
    out = ("--out", str(tmp_path / "never"))
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((folder, tmp_path / "missing.png"), "there is no image file"),
        ((folder, text), "nothing that Pillow knows as an image"),
        ((empty, image), "could not be loaded as a vision-language model"),
        ((tmp_path / "nowhere", image), "could not be loaded"),
        ((folder, image, "--layers", "7"), "--layers must be all, last-half"),
        ((folder, image, "--layers", "x"), "--layers must be all, last-half"),
        (
            (folder, image, "--target", "a", "--max-new-tokens", "3"),
            "--max-new-tokens is for generating",
        ),
        ((folder, image, "--stream", "--target", "a"), "--stream is for generating"),
        ((folder, image, "--stream", "--verify"), "Leave --stream out"),
        ((folder, image, "--every", "2"), "--every is for --stream"),
    ]
    for arguments, message in cases:
        assert _explain(*arguments, *out) == 2
        printed = capsys.readouterr().err
        assert message in printed and "Traceback" not in printed
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["explain"],
        ["explain", "--model", "m", "--image", "i", "--prompt", "p", "--dtype", "int8"],
        ["evaluate", "--limit", "0"],
        ["compare", "--repeats", "0"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: captum-dexar" in capsys.readouterr().err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("demo", "explain", "compare", "evaluate"))


def test_a_model_that_fails_exits_with_1(
    folder: Path,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("captum_dexar.VLMAttribution.attribute", fail)
    assert _explain(folder, image) == 1
    assert "RuntimeError: no such luck" in capsys.readouterr().err


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RecursionError, ImportError])
def test_ctrl_c_is_told_whatever_comes_of_it(
    folder: Path,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: type[BaseException],
) -> None:
    """Torch, interrupted while it is imported, raises RecursionError."""

    def interrupt(*args: object, **kwargs: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise raised from None

    monkeypatch.setattr("captum_dexar.VLMAttribution.attribute", interrupt)
    # Ctrl-C is ignored in what a shell has started in the background.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert _explain(folder, image) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "captum-dexar: interrupted\n" in capsys.readouterr().err


def test_an_answer_that_can_not_be_saved_is_printed(
    folder: Path,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("captum_dexar.VLMAttributionResult.save", full)
    out = ["--target", "a red", "--out", str(tmp_path / "out")]
    assert _explain(folder, image, *out) == 1
    printed = capsys.readouterr()
    assert "The model:  a red" in printed.out and "weight" in printed.out
    assert "result.dexar could not be written" in printed.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS - {
        "result.dexar"
    }


def test_demo_as_a_visitor_runs_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "captum_dexar", "demo", "--seed", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "captum-dexar-demo"
    assert {path.name for path in folder.iterdir()} == {
        *OUTPUTS,
        "rivals.dexar",
        "tokens_rivals.png",
    }
    assert "The scene:" in done.stdout and "The model:" in done.stdout
    # A pipe is not coloured.
    assert "█" in done.stdout and "\x1b" not in done.stdout


@pytest.mark.filterwarnings("ignore")
def test_compare_runs_every_method_on_a_model(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    model = ["--model", str(folder), "--image", str(image), "--prompt", "what ?"]
    more = ["--target", "a red", "--methods", "all", "--out", str(out)]
    assert main(["compare", *model, *more]) == 0
    files = {f"{name}.dexar" for name in METHODS}
    assert {path.name for path in out.iterdir()} == {
        *files,
        "page.html",
        "compare.png",
        "compare.csv",
    }
    with (out / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(METHODS)
    assert [row["method"] for row in rows] == [m.title for m in METHODS.values()]
    assert all(float(row["seconds"]) > 0 for row in rows)
    results = [VLMAttributionResult.load(out / name) for name in files]
    assert all(torch.equal(r.target_ids, results[0].target_ids) for r in results)
    printed = capsys.readouterr()
    assert all(f"| {method.title} |" in printed.out for method in METHODS.values())
    assert str(out / "compare.png") in printed.out and "comparing" in printed.err


def test_compare_on_the_bundled_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    chosen = ["--seed", "2", "--methods", "dexar, attention", "--max-new-tokens", "4"]
    times = ["--threads", "1", "--repeats", "2", "--out", str(tmp_path)]
    assert main(["compare", *chosen, *times]) == 0
    assert torch.get_num_threads() == threads
    result = VLMAttributionResult.load(tmp_path / "attention.dexar")
    assert len(result.output_tokens) == 4
    printed = capsys.readouterr().out
    assert (
        "The question:  Describe the image.\nThe answer:  the image shows a" in printed
    )


def test_compare_says_what_is_wrong(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(folder), "--image", str(image), "--prompt", "what ?"]
    cases = [
        (["--methods", "dexar,nothing"], f"called nothing. There are: {list(METHODS)}"),
        (["--methods", ""], "There are: dexar"),
        (["--methods", "ig,ig"], "ig is given more than once"),
        (["--model", str(folder)], "--model needs --image as well"),
        (["--prompt", "what ?"], "--prompt needs --image as well"),
        (model[:4], "--model needs --prompt as well"),
        (["--image", str(image), "--seed", "1"], "--seed draws a scene"),
        ([*model, "--seed", "1"], "--seed draws a scene"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--target", "a", "--max-new-tokens", "3"], "--max-new-tokens is for"),
    ]
    for arguments, message in cases:
        out = ["--out", str(tmp_path / "never")]
        assert main(["compare", *arguments, *out]) == 2
        printed = capsys.readouterr().err.replace("\n", " ")
        plain = message.replace("[", "").replace("]", "").replace("'", "")
        assert plain in printed and "Traceback" not in printed
    assert not (tmp_path / "never").exists()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"captum-dexar {version('captum-dexar')}\n"
