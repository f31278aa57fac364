"""Tables of hand-made lines whose numbers are known."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captum_dexar.evaluation.curves import (
    curve_figures,
    mean_curve,
    plot_curves,
    write_curves,
)
from captum_dexar.evaluation.measurements import Curve
from captum_dexar.evaluation.protocols import Line
from captum_dexar.evaluation.protocols.base import FILLER, FILLER_ONLY, WHOLE_ANSWER
from captum_dexar.evaluation.statistics import clustered_means, Column
from captum_dexar.evaluation.summary import summarize, write_summary

CONSTANT = {"word 10": 1, "whole answer": 2}
METHODS = ["Other | one", "DEX-AR", "Chance (chance)"]
RUN: dict[str, Any] = {
    "dataset": {"name": "made"},
    "protocol": {"name": "measured", "measures": ["b", "a"], "x_label": "fraction"},
    "methods": {name: {} for name in METHODS},
    "seed": 3,
    "samples": 4,
}


def lines() -> list[Line]:
    """Three samples of two images; DEX-AR lacks a value and a kind of one sample."""
    made = []
    for sample, image, shift in (("10", "x", 0.0), ("9", "x", 1.0), ("8", "y", 3.0)):
        for method, base in zip(METHODS, (0.0, 2.0, 9.0)):
            one = base + shift
            values: Any = {
                "word 10": {"a": [one, one + 1], "b": [one]},
                "word 9": {"a": [one + 5], "b": [0.5]},
                "whole answer": {"a": [100.0]},
            }
            if method == "DEX-AR" and sample == "8":
                values["word 10"]["a"][1] = None
                del values["word 9"]
            details = {
                "curves": {"Area, of all!": {"x": [0, 0.5], "y": [one, None]}},
                "token_weights": {"with_mask": [one], "without": [2.5]},
            }
            made.append(Line(sample, image, method, one, values, CONSTANT, details))
    return made


def written(folder: Path, of: list[Line], **run: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**RUN, **run}))
    text = "".join(f"{line.to_json()}\n" for line in of)
    (folder / "results.jsonl").write_text(text)
    return folder


def test_the_rows(tmp_path: Path) -> None:
    summary = summarize(written(tmp_path, lines()))
    rows = {(r.method, r.kind, r.measure): r for r in summary.rows}
    kinds = ["word 9", "word 10", "all", "whole answer", "token weights"]
    assert list(dict.fromkeys(row.kind for row in summary.rows)) == kinds
    of_kind = [row.measure for row in summary.rows if row.kind == "word 10"]
    assert of_kind == ["b"] * 3 + ["a"] * 3
    first = [row.method for row in summary.rows[:3]]
    assert first == METHODS and summary.reference == "DEX-AR"
    # (0, 1), (1, 2) and (3, 4); DEX-AR: (2, 3), (3, 4) and 5.
    other, ours = (rows[name, "word 10", "a"] for name in METHODS[:2])
    assert (other.number, other.images) == (6, 2)
    assert other.mean.value == pytest.approx(11 / 6)
    assert ours.number == 5 and ours.mean.value == pytest.approx(17 / 5)
    assert (ours.pairs, ours.p, ours.difference.value) == (0, None, None)
    # The pair that DEX-AR lacks is no pair; all differences are -2, of two images.
    assert (other.pairs, other.difference.value) == (5, -2)
    assert (other.difference.low, other.difference.high, other.p) == (-2, -2, 0.5)
    every = rows["DEX-AR", "all", "a"]
    assert every.number == 7
    assert every.mean.value == pytest.approx((17 + 7 + 8) / 7)
    assert rows["DEX-AR", "whole answer", "a"].mean.value == 100
    # Weights 0, 1, 3 against three times 2.5; and 2, 3, 5.
    auroc = {name: rows[name, "token weights", "AUROC"] for name in METHODS}
    found = [auroc[name].mean.value for name in METHODS]
    assert found == pytest.approx([1 / 3, 2 / 3, 1])


def test_intervals_are_those_of_all_lines(tmp_path: Path) -> None:
    """Images without a measurement are drawn, too."""
    summary = summarize(written(tmp_path, lines()))
    (row,) = [
        row
        for row in summary.rows
        if (row.method, row.kind, row.measure) == ("DEX-AR", "word 9", "a")
    ]
    column = Column(np.array([7.0, 8.0]), np.array([0, 0]))
    (expected,) = clustered_means([column], 2, seed=3)
    assert row.mean == expected and row.mean.low is None


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    made = lines()
    write_summary(written(tmp_path / "a", made))
    for seed in range(3):
        random.Random(seed).shuffle(made)
        write_summary(written(tmp_path / "b", made))
        for name in ("summary.md", "summary.csv"):
            texts = [(tmp_path / one / name).read_bytes() for one in "ab"]
            assert texts[0] == texts[1]


def test_the_files(tmp_path: Path) -> None:
    failed = Line("7", "z", "DEX-AR", 0.0, error="ValueError: no\nmap")
    skipped = {"sample": "6", "path": "6.png", "reason": "truncated"}
    (tmp_path / "skipped.jsonl").write_text(json.dumps(skipped) + "\n")
    summary = write_summary(written(tmp_path, [*lines(), failed], samples=6))
    assert not summary.is_complete
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith(
        "# measured on made\n\n4 samples of 3 images measured with 3"
    )
    for part in (
        "1 damaged samples skipped",
        "1 measurements failed",
        "**Not finished**: the run is over 6 samples",
        "## word 10\n\n| method | n | b | a |\n",
        "| Other \\| one | 6 | 1.333 [",
        "-2.000 [-2.000, -2.000], p = 0.500 (1.000)",
        "## Constant maps\n\n- Other | one: word 10, 3; whole answer, 6\n- DEX-AR: ",
        "- DEX-AR, 1 samples: ValueError: no map",
        "- 6: truncated",
    ):
        assert part in text, part
    assert "/data/" not in text and "filler words only" not in text
    with (tmp_path / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = [
        row
        for row in rows
        if (row["method"], row["kind"], row["measure"])
        == ("Other | one", "word 10", "a")
    ]
    assert (row["n"], row["images"], row["mean"]) == ("6", "2", "1.83333")
    assert (row["pairs"], row["difference"], row["p"]) == ("5", "-2", "0.5")
    # Two methods are compared with DEX-AR.
    assert row["p_holm"] == "1"
    assert {row["failed"] for row in rows if row["method"] == "DEX-AR"} == {"1"}
    constant = {row["kind"]: row["degenerate"] for row in rows}
    assert constant == {
        **{"word 9": "0", "word 10": "3", "all": "3", "whole answer": "6"},
        "token weights": "0",
    }
    with (tmp_path / "seconds.csv").open() as file:
        times = {row["method"]: row for row in csv.DictReader(file)}
    assert list(times) == METHODS
    assert times["DEX-AR"]["mean"] == "3.33333" and times["DEX-AR"]["median"] == "3"
    brief = summary.brief()
    assert "all:" in brief and "word 10:" not in brief


def test_kinds_that_have_no_label(tmp_path: Path) -> None:
    unlabelled = [Line("1", "1", "DEX-AR", 0.0, {"": {"a": [1.0]}})]
    labelled = [Line("1", "1", "DEX-AR", 0.0, {"one": {"a": [1.0]}})]
    both = [Line("1", "1", "DEX-AR", 0.0, {"one": {"a": [1.0]}, "": {"a": [2.0]}})]
    for number, (made, kinds) in enumerate(
        [(unlabelled, ["all"]), (labelled, ["one"]), (both, ["one", "all"])]
    ):
        summary = summarize(written(tmp_path / str(number), made))
        assert summary.measurements.kinds == kinds
        assert len(summary.rows) == len(kinds)
    # The reference, if the run lacks DEX-AR, is its first method.
    folder = written(tmp_path / "x", labelled, methods={"IG": {}, "b": {}})
    assert summarize(folder).reference == "IG"


def test_the_whole_answer_is_read_beside_its_control(tmp_path: Path) -> None:
    values: Any = {WHOLE_ANSWER: {"a": [1.0]}, FILLER_ONLY: {"a": [1.0]}}
    made = [Line("1", "1", "DEX-AR", 0.0, values)]
    text = summarize(written(tmp_path, made)).markdown()
    assert "## whole answer\n\nThe map of the whole answer shows" in text
    assert text.count("The map of the whole answer shows") == 1
    objects: Any = {f"{WHOLE_ANSWER}: objects": {"a": [1.0]}, **values}
    made = [Line("1", "1", "DEX-AR", 0.0, objects)]
    kinds = summarize(written(tmp_path, made)).measurements.kinds
    assert kinds == [WHOLE_ANSWER, f"{WHOLE_ANSWER}: objects", FILLER_ONLY]


def test_p_is_corrected_for_the_methods_of_a_column(tmp_path: Path) -> None:
    """Six images; one method is always better, one always but once, one is the same."""
    bases = {"DEX-AR": 0.0, "one": 1.0, "two": 1.0, "three": 0.0}
    made = []
    for image in range(6):
        for method, base in bases.items():
            worse = method == "two" and image == 5
            values: Any = {"k": {"a": [base * (-1 if worse else 1)], "b": [base]}}
            made.append(Line(f"{image}", f"{image}", method, 0.0, values))
    folder = written(tmp_path, made, methods=dict.fromkeys(bases, {}))
    rows = {(row.method, row.measure): row for row in summarize(folder).rows}
    # All signs, or all but one or less, out of 64.
    expected = {"one": (2 / 64, 6 / 64), "two": (14 / 64, 28 / 64), "three": (1, 1)}
    for method, (p, corrected) in expected.items():
        row = rows[method, "a"]
        assert (row.p, row.p_holm) == pytest.approx((p, corrected))
    # Other columns are other families.
    assert rows["two", "b"].p_holm == pytest.approx(6 / 64)
    assert rows["DEX-AR", "a"].p_holm is None


def test_filler_words_are_no_part_of_all(tmp_path: Path) -> None:
    values: Any = {"one": {"a": [1.0]}, "two": {"a": [3.0]}, FILLER: {"a": [50.0]}}
    values[WHOLE_ANSWER] = {"a": [70.0]}
    weights = {"token_weights": {"with_effect": [2.0, 3.0], "without_effect": [2.0]}}
    made = [Line("1", "1", "DEX-AR", 0.0, values, {FILLER: 1}, weights)]
    settings = {**RUN["protocol"], "weights": "the heavy are heavier"}
    summary = summarize(written(tmp_path, made, protocol=settings))
    kinds = ["one", "two", "all", FILLER, WHOLE_ANSWER]
    assert summary.measurements.kinds == kinds
    rows = {row.kind: row for row in summary.rows}
    assert rows["all"].mean.value == 2 and rows[FILLER].mean.value == 50
    assert rows["token weights"].mean.value == 0.75
    text = summary.markdown()
    assert "The probability that the heavy are heavier (AUROC)." in text
    assert summary.measurements.constant_maps("DEX-AR", "all") == 0


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_summary(tmp_path)


def test_curves(tmp_path: Path) -> None:
    made = lines()
    curve = {"curves": {"Area, of all!": {"x": [0, 1], "y": [7, 7]}}}
    made.append(Line("5", "y", "DEX-AR", 0.0, {}, {}, curve))
    summary = summarize(written(tmp_path, made))
    (path,) = write_curves(summary, tmp_path)
    assert path.name == "curves-area-of-all.png" and path.stat().st_size > 5000
    ((name, by_method),) = summary.measurements.curves().items()
    ours = by_method["DEX-AR"]
    # The positions of most samples; samples are sorted by their names: 10, 8, 9.
    assert (ours.x, ours.left_out) == ((0, 0.5), 1)
    assert ours.y[:, 0].tolist() == [2, 5, 3] and np.isnan(ours.y[:, 1]).all()
    assert ours.clusters.tolist() == [0, 1, 0]
    start, end = mean_curve(ours, 2)
    assert start.value == pytest.approx(10 / 3) and start.low == 2.5
    assert start.high == 5 and end.value is None
    figure = plot_curves(name, by_method, 2, x_label="fraction", y_label="loss")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "fraction" and axes.get_ylabel() == "loss"
    assert axes.get_title() == name
    drawn: dict[Any, Any] = {line.get_label(): line for line in axes.lines}
    assert set(drawn) == set(METHODS)
    assert drawn["Chance (chance)"].get_linestyle() == "--"
    assert drawn["DEX-AR"].get_ydata()[0] == pytest.approx(10 / 3)


def test_curves_have_the_line_that_they_come_down_to(tmp_path: Path) -> None:
    """The mean of a measure over all words: of DEX-AR (2, 3, 3, 4, 5, 7, 8) / 7."""
    settings = {**RUN["protocol"], "zero_lines": {"Area, of all!": "a"}}
    summary = summarize(written(tmp_path, lines(), protocol=settings))
    (figure,) = curve_figures(summary).values()
    (axes,) = figure.axes
    assert axes.get_xlabel() == "fraction"
    heights: dict[Any, Any] = {one.get_label(): one.get_ydata() for one in axes.lines}
    assert list(heights["DEX-AR, unrelated maps"]) == pytest.approx([32 / 7] * 2)
    assert len(heights) == 2 * len(METHODS)
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [*METHODS, "unrelated maps"]


def test_each_of_many_curves_has_a_colour() -> None:
    curve = Curve((0.0, 1.0), np.zeros((1, 2)), np.array([0]), 0)
    for number in (3, 10, 20):
        figure = plot_curves("all", {str(k): curve for k in range(number)}, 1)
        (axes,) = figure.axes
        assert len({line.get_color() for line in axes.lines}) == number


def test_nearly_nothing_has_no_sign(tmp_path: Path) -> None:
    values: Any = {"one": {"a": [-0.0004]}}
    others: Any = {"one": {"a": [-0.0002]}}
    made = [
        Line(image, image, method, 0.0, one)
        for image in "xy"
        for method, one in (("DEX-AR", values), ("Other | one", others))
    ]
    text = summarize(written(tmp_path, made)).markdown()
    assert "| DEX-AR | 2 | 0.000 [0.000, 0.000] |" in text
    assert "| Other \\| one | +0.000 [+0.000, +0.000], p" in text
