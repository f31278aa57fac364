"""``captum-dexar evaluate``, from the bundled scenes to models and data on disk."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captum_dexar.cli import main
from captum_dexar.comparison.methods import EVALUATED, METHODS
from captum_dexar.evaluation.datasets.letters import LettersDataset
from captum_dexar.evaluation.protocols import LocalizationProtocol
from captum_dexar.letters import build_processor
from PIL import Image
from tests.evaluation.datasets.models import letters_model, model_and_processor
from tests.helpers.published_layouts import noise, write_coco, write_voc

FILES = {
    "results.jsonl",
    "skipped.jsonl",
    "run.json",
    "summary.md",
    "summary.csv",
    "seconds.csv",
}
CONTROLS = [METHODS["random"].title, METHODS["uniform"].title, "True mask (oracle)"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]


def methods_of(out: Path) -> list[str]:
    with (out / "summary.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] == "EPG"]
    return list(dict.fromkeys(row["method"] for row in rows))


def test_every_method_on_the_bundled_scenes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By default all one-pass methods; and how often the model is right."""
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--limit", "2", "--seed", "5", "--accuracy"]) == 0
    out = tmp_path / "captum-dexar-evaluation" / "shapes-localization"
    assert {one.name for one in out.iterdir()} - {".lock"} == FILES
    assert "True mask (oracle)" == methods_of(out)[-1]
    assert methods_of(out)[:-1] == [METHODS[name].title for name in EVALUATED]
    samples = {json.loads(s)["sample"] for s in (out / "results.jsonl").open()}
    assert samples == {"5", "6"}
    printed = capsys.readouterr()
    assert "| caption of" in printed.out and "| count |" in printed.out
    assert "| DEX-AR | " in printed.out and "seconds per sample" in printed.out
    assert "shapes-localization/summary.md" in printed.out
    assert "measuring" in printed.err


def test_controls_are_added_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--limit", "1", "--methods", "saliency,random", "--out", str(out)]
    assert main(["evaluate", *arguments, "--protocol", "localisation"]) == 0
    random, uniform, oracle = CONTROLS
    assert methods_of(out) == [METHODS["saliency"].title, random, uniform, oracle]


def test_an_interrupted_run_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command(out: str) -> list[str]:
        arguments = ["--limit", "3", "--methods", "attention-last"]
        return ["evaluate", *arguments, "--out", str(tmp_path / out)]

    assert main(command("whole")) == 0
    measure: Any = LocalizationProtocol.measure

    def interrupted(*given: Any, sample: str, **more: Any) -> Any:
        for line in measure(*given, sample=sample, **more):
            if sample == "1" and line.method == CONTROLS[1]:
                raise KeyboardInterrupt
            yield line

    with monkeypatch.context() as patched:
        patched.setattr(LocalizationProtocol, "measure", interrupted)
        assert main(command("out")) == 130
    printed = capsys.readouterr().err
    assert (
        "The same command goes on from there" in printed and "Traceback" not in printed
    )
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 6
    assert main(command("out")) == 0
    assert "1/3" in capsys.readouterr().err
    for name in ("summary.md", "summary.csv"):
        texts = [(tmp_path / one / name).read_bytes() for one in ("whole", "out")]
        assert texts[0] == texts[1]
    assert main([*command("out"), "--seed", "1"]) == 2
    assert "seed was 0, and is now 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["paligemma", "florence2"])
def test_a_model_and_a_dataset_on_disk(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's own answers on PascalVOC; one image is damaged."""
    model: Any
    model, processor = model_and_processor(name)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    classes = np.zeros((40, 60), dtype=np.uint8)
    classes[5:19, 6:29] = 15
    samples = {f"2007_00000{n}": (noise(40, 60, n), classes) for n in range(3)}
    write_voc(tmp_path / "VOCdevkit", samples)
    images = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages"
    (images / "2007_000001.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    on = [
        "--dataset",
        "voc",
        "--root",
        str(tmp_path),
        "--model",
        str(tmp_path / "model"),
    ]
    more = ["--methods", "dexar,attention", "--max-new-tokens", "3", "--out", str(out)]
    with pytest.warns(UserWarning, match="Sample 2007_000001 is skipped"):
        assert main(["evaluate", *on, *more]) == 0
    assert methods_of(out) == ["DEX-AR", METHODS["attention"].title, *CONTROLS]
    lines = [json.loads(line) for line in (out / "results.jsonl").open()]
    assert [line["error"] for line in lines] == [None] * 10
    answers = {(line["sample"], line["details"]["answer"]) for line in lines}
    assert len(answers) == 2
    kinds = {kind for line in lines for kind in line["values"]}
    assert "whole answer: objects" in kinds
    assert "1 damaged samples skipped" in capsys.readouterr().out
    said = (out / "run.json").read_text()
    assert str(tmp_path) not in said and '"max_new_tokens": 3' in said


def test_letters_are_drawn_for_the_model_that_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    letters_model().save_pretrained(tmp_path / "model")
    build_processor().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    on = ["--dataset", "letters", "--model", "model", "--limit", "2", "--seed", "5"]
    assert main(["evaluate", *on, "--methods", "attention-last", "--accuracy"]) == 0
    # It was never trained.
    assert "| spelling | 0 |" in capsys.readouterr().out
    out = tmp_path / "captum-dexar-evaluation" / "letters-localization"
    lines = [json.loads(line) for line in (out / "results.jsonl").open()]
    assert {line["sample"] for line in lines} == {"5", "6"}
    assert [line["error"] for line in lines] == [None] * len(lines)
    kinds = {kind for line in lines for kind in line["values"]}
    assert kinds >= {*LettersDataset.word_kinds, "whole answer: objects"}
    on = ["--dataset", "shapes", "--model", "model", "--limit", "1", "--out", "other"]
    assert main(["evaluate", *on, "--accuracy"]) == 2
    assert "this model was not trained on them" in capsys.readouterr().err
    assert not (tmp_path / "other" / "results.jsonl").exists()


def test_nothing_measured_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = np.full((40, 60), 15, dtype=np.uint8)
    write_voc(tmp_path / "VOCdevkit", {"2007_000001": (noise(40, 60, 0), classes)})
    images = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages"
    (images / "2007_000001.jpg").write_bytes(b"no image")
    on = ["--dataset", "voc", "--root", str(tmp_path), "--methods", "attention"]
    with pytest.warns(UserWarning, match="is skipped"):
        assert main(["evaluate", *on, "--out", str(tmp_path / "out")]) == 1
    assert "nothing was measured" in capsys.readouterr().err


def test_what_is_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    here = str(tmp_path)
    perturbed, effects = ["--protocol", "perturbation"], ["--protocol", "effects"]
    voc = ["--dataset", "voc", "--root", here]
    cases = [
        (["--methods", "dexar,nothing"], "no method is called nothing. There are"),
        (["--seed", "-1"], "--seed must not be negative, got -1"),
        (["--root", here], "--root is for datasets on disk; shapes are drawn"),
        (["--dataset", "letters"], "--dataset letters needs --model"),
        (["--dataset", "letters", "--root", here], "letters are drawn"),
        (["--dataset", "voc"], "--dataset voc needs --root"),
        (["--dataset", "voc", "--root", here + "/no"], "there is no folder"),
        (["--dataset", "voc", "--root", here], "--dataset voc: "),
        ([*voc, "--accuracy"], "--accuracy asks about drawn scenes; voc has photo"),
        (["--depths", "3"], "--depths needs --protocol sanity"),
        (["--insertion"], "--insertion needs --protocol perturbation"),
        (["--protocol", "sanity", "--fill", "blur"], "--fill needs --protocol pert"),
        (["--protocol", "sanity", "--depths", "1"], "depths must be at least 2"),
        ([*perturbed, "--fill", "red"], "fill must be 'mean', 'blur'"),
        ([*perturbed, "--fill", "0,0,300"], "three numbers from 0 to 255"),
        ([*perturbed, "--fractions", "0.5,0.1"], "must be ascending"),
        ([*perturbed, "--sufficient", "2"], "sufficient must lie between"),
        ([*effects, "--negligible", "-1"], "negligible must be a number of nats"),
        ([*effects, "--similar", "1"], "similar must be a share, from 0 to below 1"),
        (["--substantial", "1"], "--substantial needs --protocol effects"),
        ([*effects, "--depths", "2"], "--depths needs --protocol sanity"),
        ([*effects, *voc], "needs scenes that can be drawn again without an object"),
        (["--own-answer"], "--own-answer is for coco"),
        (["--model", here], "could not be loaded as a vision-language model"),
    ]
    out = tmp_path / "never"
    for arguments, message in cases:
        assert main(["evaluate", *arguments, "--out", str(out)]) == 2
        printed = capsys.readouterr().err
        assert message in printed and "Traceback" not in printed
    assert not out.exists()


@pytest.mark.parametrize("option", ["--dataset", "--protocol"])
def test_unknown_names_are_bad_usage(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", option, "nothing"])
    assert stop.value.code == 2
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_options_of_a_protocol_are_its_arguments(tmp_path: Path) -> None:
    chosen = ["--fractions", "0,0.5", "--fill", "9,8,7", "--unit", "pixel"]
    chosen += ["--insertion", "--sufficient", "0.2", "--methods", "attention-last"]
    out = tmp_path / "perturbation"
    on = ["evaluate", "--limit", "1", "--out"]
    assert main([*on, str(out), "--protocol", "perturbation", *chosen]) == 0
    protocol = json.loads((out / "run.json").read_text())["protocol"]
    assert protocol["fractions"] == [0.0, 0.5] and protocol["fill"] == [9, 8, 7]
    assert protocol["unit"] == "pixel" and protocol["sufficient"] == 0.2
    assert protocol["modes"] == ["removal", "insertion"]
    line = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    assert "positive insertion AUC" in line["values"]["whole answer"]
    assert [len(one["y"]) for one in line["details"]["curves"].values()] == [2] * 4


def test_true_effects_of_the_bundled_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped and started again, and with a threshold that nothing reaches."""
    on = ["evaluate", "--protocol", "effects", "--limit", "2", "--methods", "dexar"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([*on, "--out", str(whole)]) == 0
    printed = capsys.readouterr().out
    assert "all:" in printed and "| True effects (oracle) | " in printed
    assert "weights of its words:" in printed
    lines = (whole / "results.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["error"] for line in lines] == [None] * 12
    assert main([*on, "--out", str(out)]) == 0
    (out / "results.jsonl").write_text("".join(lines[:7]))
    assert main([*on, "--out", str(out)]) == 0
    for name in ("summary.md", "summary.csv"):
        assert (whole / name).read_bytes() == (out / name).read_bytes()
    none = tmp_path / "none"
    chosen = ["--negligible", "1000", "--similar", "0.2", "--substantial", "1000"]
    assert main([*on, *chosen, "--out", str(none)]) == 0
    protocol = json.loads((none / "run.json").read_text())["protocol"]
    assert (protocol["negligible"], protocol["similar"]) == (1000, 0.2)
    with (none / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["measure"] for row in rows if row["kind"] == "colour"} == {
        "largest effect (nats)",
        "informative",
        "ranked",
    }
    assert "token weights" not in {row["kind"] for row in rows}


def test_the_models_own_answers_on_coco(tmp_path: Path) -> None:
    box = [[5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]]
    root = tmp_path / "coco"
    captions, objects = [(7, "a circle")], [(7, 1, box, False)]
    write_coco(root, {7: noise(40, 60, 0)}, captions, objects, {1: "circle"})
    on = ["evaluate", "--dataset", "coco", "--root", str(root)]
    on += ["--methods", "attention-last", "--protocol", "perturbation"]
    answers = []
    for own in ([], ["--own-answer"]):
        out = tmp_path / f"out{len(own)}"
        assert main([*on, *own, "--out", str(out)]) == 0
        line = json.loads((out / "results.jsonl").read_text().splitlines()[0])
        answers.append(line["details"]["answer"])
    assert answers[0] == "a circle" != answers[1]


@pytest.mark.parametrize("inside", ["", "folder"])
def test_out_is_a_file(
    tmp_path: Path, inside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(["evaluate", "--limit", "1", "--out", str(file / inside)]) == 2
    assert capsys.readouterr().err.endswith(
        f"--out: {file} is a file, and no folder.\n"
    )
