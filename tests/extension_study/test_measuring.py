"""What is kept of the measurements, and what tables make of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from captum_dexar.evaluation.protocols.base import Line
from captum_dexar.shapes.bundled import VLM_FOLDER
from tests.extension_study import tables
from tests.extension_study.measuring import condensed, measure, save
from tests.extension_study.models import MODELS

KINDS = ("colour", "size")


def _line(sample: str, method: str, **values: Any) -> Line:
    weights = {"with_mask": [0.9, 0.4], "without": [0.4, 0.1]}
    kinds = {
        "colour": {"EPG": [0.5, 0.7], "Spearman": [None, 1.0]},
        "size": {"EPG": [0.3]},
        "relation": {"EPG": [0.1]},
    }
    return Line(
        sample, sample, method, 2.0, kinds | values, {}, {"token_weights": weights}
    )


def test_scenes_are_means_over_the_words_of_the_measured_kinds() -> None:
    lines = [
        _line("1", "x"),
        _line("0", "x", size={"EPG": [0.9]}, colour={"EPG": [0.1], "Spearman": [None]}),
        Line("2", "2", "x", 0.0, error="failed"),
    ]
    kept = condensed(lines, ["0", "1", "2"], KINDS)["x"]
    assert kept["scenes"]["EPG"] == [0.5, 0.5, None]
    assert kept["scenes"]["Spearman"] == [None, 1.0, None]
    assert kept["means"]["colour"]["EPG"] == [pytest.approx(1.3 / 3, abs=1e-4), 3]
    assert kept["means"]["relation"]["EPG"] == [0.1, 2]
    # Of 16 pairs, those of equal weights (0.4) count half.
    assert kept["AUROC"]["token_weights"][0] == 0.875
    assert kept["failed"] == 1 and kept["seconds"] == 2.0


def _kept(folder: Path, name: str, shift: float) -> None:
    """Scenes of a model on which one candidate is better than all baselines."""
    scenes = [0.3 + 0.01 * place for place in range(12)]
    methods = {}
    for title in (*tables.CANDIDATE_TITLES, *tables.BASELINE_TITLES):
        plus = shift if title.startswith("10:") else 0.0
        methods[title] = {
            "means": {"colour": {one: [0.5, 3] for one in tables.MEASURES}},
            "scenes": {one: [x + plus for x in scenes] for one in tables.MEASURES},
            "AUROC": {"token_weights": [0.9, 0.8, 1.0]},
        }
    model = MODELS[name]
    kept = {"name": name, "world": model.world, "methods": methods}
    kept["accuracy"] = {f"caption of {n}": [n, 4] for n in (1, 2, 3)}
    kept["model"] = {"fingerprint": "0123456789abcdef"}
    save(kept, folder / f"{name}.json")
    assert json.loads((folder / f"{name}.json").read_text()) == kept


def test_what_is_better_than_every_baseline_wins_all(tmp_path: Path) -> None:
    _kept(tmp_path, "words-1", 0.1)
    _kept(tmp_path, "patches-0", 0.2)
    _kept(tmp_path, "letters-0", 0.0)
    made = {name: table(tmp_path) for name, table in tables.TABLES.items()}
    rows = [line.split(" | ") for line in made["verdict"].splitlines()]
    won = {(row[0][2:], row[1]): row[2:5] for row in rows[2:]}
    count = len(tables.MEASURES) * len(tables.BASELINE_TITLES)
    first = next(one for one in tables.CANDIDATE_TITLES if one.startswith("10:"))
    assert won["words-1", first] == [f"{count} of {count}", "", ""]
    assert won["letters-0", first][0] == f"0 of {count}"
    # Twelve equal differences: flips of all their signs alone are as large.
    one, *_ = tables.comparisons(tables.models(tmp_path)[0])
    assert one.p == 1.0
    assert "0.355 → 0.355 (+0.000)" in made["masks"]
    assert "0.455 → 0.555 (+0.100)" in made["masks"]
    assert "| words-1 |" in made["models"] and "0.250 | 0.500 | 0.750" in made["models"]


def test_one_model_is_measured_and_kept(tmp_path: Path) -> None:
    kept = measure(
        MODELS["words-1"],
        VLM_FOLDER,
        tmp_path / "measured",
        first_seed=20_003,
        num_scenes=1,
        num_slow=0,
        accuracy_scenes=1,
    )
    assert set(kept["methods"]) >= {*tables.CANDIDATE_TITLES, "DEX-AR"}
    assert all(one["failed"] == 0 for one in kept["methods"].values())
    oracle = kept["methods"]["True effects (oracle)"]
    assert oracle["scenes"]["overlap"] == [1.0]
    assert kept["accuracy"]["count"] == [1, 1]


def test_the_readme_has_the_tables() -> None:
    text = tables.README.read_text(encoding="utf-8")
    assert tables.with_tables(text) == text
    with pytest.raises(ValueError, match="no place for the table models"):
        tables.with_tables("")
