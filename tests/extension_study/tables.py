"""The tables of the README, from the kept results alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from captum_dexar.comparison.methods import METHODS
from captum_dexar.evaluation.statistics import Column, holm, sign_flip_p
from tests.extension_study.candidates import CANDIDATES
from tests.extension_study.methods import BASELINES, SLOW
from tests.extension_study.models import MODELS
from tests.extension_study.protocol import EQUATION_6

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
MEASURES = ("pointing", "soft-IoU", "EPG", "Spearman", "overlap")
AUROC_FLOOR = 0.95
LEVEL = 0.05
BASELINE_TITLES = tuple(METHODS[name].title for name in (*BASELINES, *SLOW))
CANDIDATE_TITLES = tuple(one.name for one in CANDIDATES.values())
_SHARE = "token_weights"
_AUROC = ("AUROC, share", "AUROC, equation (6)")
# Their map is of the objects' effects, and is no map of a word.
_EFFECTS = "True effects"


@dataclass(frozen=True)
class Model:
    """What is kept of one model.

    Attributes:
        name (str): its name
        world (str): its world
        kept (dict): see :func:`tests.extension_study.measuring.measure`
    """

    name: str
    world: str
    kept: dict[str, Any]

    @property
    def saw_masks(self) -> bool:
        """Whether it was trained with the masks of objects."""
        return MODELS[self.name].saw_masks

    def scenes(self, method: str, measure: str) -> np.ndarray[Any, Any]:
        """The mean of each scene, NaN where there is none."""
        values = self.kept["methods"][method]["scenes"][measure]
        return np.array([np.nan if one is None else one for one in values])

    def mean(self, method: str, measure: str) -> float | None:
        """The mean of the scenes' means; None where a method has no map to measure."""
        if method.startswith(_EFFECTS) and measure in MEASURES[:3]:
            return None
        return float(np.nanmean(self.scenes(method, measure)))

    def auroc(self, method: str, weights: str) -> float | None:
        """How well token weights, ``_SHARE`` or ``EQUATION_6``, tell words with a place
        from others."""
        if method not in CANDIDATE_TITLES:
            # The paper's form has one kind of weights.
            weights = {EQUATION_6: _SHARE}.get(weights, "")
        found = self.kept["methods"][method]["AUROC"].get(weights)
        return None if found is None else float(found[0])


@dataclass(frozen=True)
class Comparison:
    """A candidate and a baseline in one measure on one model.

    Attributes:
        candidate, baseline, measure (str): what is compared
        difference (float): mean over scenes of what the candidate has more
        p (float): two-sided p of sign flips over scenes, corrected for all candidates
            and baselines
    """

    candidate: str
    baseline: str
    measure: str
    difference: float
    p: float

    @property
    def is_won(self) -> bool:
        """Whether the candidate is above the baseline."""
        return self.difference > 0 and self.p < LEVEL


def models(folder: Path = RESULTS) -> list[Model]:
    """The models whose results are kept, those of the first world first."""
    kept = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [Model(one["name"], one["world"], one) for one in kept]
    return sorted(found, key=lambda one: (one.world != "shapes", one.saw_masks))


def comparisons(model: Model) -> list[Comparison]:
    """All candidates against all baselines in all measures, on one model."""
    found = []
    for measure in MEASURES:
        pairs = [
            (candidate, baseline)
            for candidate in CANDIDATE_TITLES
            for baseline in BASELINE_TITLES
            if {candidate, baseline} <= set(model.kept["methods"])
        ]
        columns = [_differences(model, *pair, measure) for pair in pairs]
        number = max(int(column.clusters.max()) + 1 for column in columns)
        ps = [1.0 if p is None else p for p in sign_flip_p(columns, number)]
        for pair, column, p in zip(pairs, columns, holm(ps)):
            found.append(Comparison(*pair, measure, float(column.values.mean()), p))
    return found


def _differences(model: Model, ours: str, theirs: str, measure: str) -> Column:
    """Differences in the scenes that both have."""
    other = model.scenes(theirs, measure)
    difference = model.scenes(ours, measure)[: len(other)] - other
    (places,) = np.nonzero(~np.isnan(difference))
    return Column(difference[places], places.astype(np.int64))


def models_table(folder: Path = RESULTS) -> str:
    """What the models have learnt."""
    rows = []
    for model in models(folder):
        shares = {k: right / asked for k, (right, asked) in _accuracy(model).items()}
        rows.append(
            (
                model.name,
                f"`{MODELS[model.name].command}`",
                *(f"{shares[f'caption of {n}']:.3f}" for n in (1, 2, 3)),
                model.kept["model"]["fingerprint"][:12],
            )
        )
    captions = [f"{n} object{'s' if n > 1 else ''}" for n in (1, 2, 3)]
    return _table(("model", "trained by", *captions, "fingerprint"), rows)


def _accuracy(model: Model) -> dict[str, tuple[int, int]]:
    accuracy: dict[str, tuple[int, int]] = model.kept["accuracy"]
    return accuracy


def headline_table(folder: Path = RESULTS) -> str:
    """Every method, over all measured words: mean of the seeds of a recipe."""
    rows = []
    for name, group in _groups(folder).items():
        for method in group[-1].kept["methods"]:
            measured = [one for one in group if method in one.kept["methods"]]
            cells = [
                _mean_of([one.mean(method, measure) for one in measured])
                for measure in MEASURES
            ]
            cells += [
                _mean_of([one.auroc(method, weights) for one in measured])
                for weights in (_SHARE, EQUATION_6)
            ]
            rows.append((name, method, *cells))
    heads = ("models", "method", *MEASURES, *_AUROC)
    return _table(heads, rows)


def seeds_table(folder: Path = RESULTS) -> str:
    """Every method and model, over all measured words."""
    rows = []
    for model in models(folder):
        for method in model.kept["methods"]:
            cells = [_mean_of([model.mean(method, one)]) for one in MEASURES]
            cells += [
                _mean_of([model.auroc(method, one)]) for one in (_SHARE, EQUATION_6)
            ]
            rows.append((model.name, method, *cells))
    heads = ("model", "method", *MEASURES, *_AUROC)
    return _table(heads, rows)


def _groups(folder: Path) -> dict[str, list[Model]]:
    """The seeds of each recipe."""
    found: dict[str, list[Model]] = {}
    for model in models(folder):
        words = "with masks" if model.saw_masks else "without masks"
        found.setdefault(f"{model.world}, {words}", []).append(model)
    return found


def _mean_of(numbers: Sequence[float | None]) -> str:
    """The mean, and the smallest and largest of several."""
    known = [one for one in numbers if one is not None]
    if not known:
        return ""
    mean = f"{np.mean(known):.3f}"
    if len(known) == 1:
        return mean
    return f"{mean} ({min(known):.3f} to {max(known):.3f})"


def verdict_table(folder: Path = RESULTS) -> str:
    """How many comparisons each candidate wins and loses on each model."""
    rows = []
    for model in models(folder):
        compared = comparisons(model)
        for candidate in CANDIDATE_TITLES:
            if candidate not in model.kept["methods"]:
                continue
            own = [one for one in compared if one.candidate == candidate]
            won = [one for one in own if one.is_won]
            lost = [one for one in own if one.difference < 0 and one.p < LEVEL]
            open_ = [one for one in own if one not in won and one not in lost]
            weights = [model.auroc(candidate, one) for one in (_SHARE, EQUATION_6)]
            rows.append(
                (
                    model.name,
                    candidate,
                    f"{len(won)} of {len(own)}",
                    _named(open_),
                    _named(lost),
                    *("" if one is None else f"{one:.3f}" for one in weights),
                )
            )
    heads = (
        "model",
        "candidate",
        "above",
        "not told apart",
        "below",
        *_AUROC,
    )
    return _table(heads, rows)


def _named(compared: Sequence[Comparison]) -> str:
    by_baseline: dict[str, list[str]] = {}
    for one in compared:
        by_baseline.setdefault(one.baseline, []).append(one.measure)
    return "; ".join(f"{name}: {', '.join(of)}" for name, of in by_baseline.items())


def kinds_table(folder: Path = RESULTS) -> str:
    """Every method and model by kind of word."""
    rows = []
    for model in models(folder):
        for method, kept in model.kept["methods"].items():
            for kind, means in kept["means"].items():
                cells = [
                    f"{means[one][0]:.3f}" if one in means else "" for one in MEASURES
                ]
                rows.append((model.name, method, kind, *cells))
    return _table(("model", "method", "kind", *MEASURES), rows)


def masks_table(folder: Path = RESULTS) -> str:
    """What a model that was trained with masks scores more than one without."""
    rows = []
    shapes = [one for one in models(folder) if one.world == "shapes"]
    without = [one for one in shapes if not one.saw_masks]
    with_masks = [one for one in shapes if one.saw_masks]
    if not without or not with_masks:
        return ""
    everywhere = [set(one.kept["methods"]) for one in shapes]
    for method in without[0].kept["methods"]:
        if not all(method in names for names in everywhere):
            continue
        cells = []
        for measure in MEASURES:
            groups = [
                [
                    mean
                    for one in group
                    if (mean := one.mean(method, measure)) is not None
                ]
                for group in (without, with_masks)
            ]
            if not all(groups):
                cells.append("")
                continue
            before, after = map(np.mean, groups)
            cells.append(f"{before:.3f} → {after:.3f} ({after - before:+.3f})")
        rows.append((method, *cells))
    return _table(("method", *MEASURES), rows)


# Of the folder with the results, by default that of the kept ones.
TABLES: dict[str, Callable[..., str]] = {
    "models": models_table,
    "headline": headline_table,
    "verdict": verdict_table,
    "masks": masks_table,
    "seeds": seeds_table,
    "kinds": kinds_table,
}

# The others are long.
IN_README = ("models", "headline", "verdict", "masks")


def with_tables(text: str, folder: Path = RESULTS) -> str:
    """A text with its tables made anew."""
    for name in IN_README:
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, stop, after = rest.partition(f"<!-- /{name} -->")
        if not start or not stop:
            raise ValueError(f"The text has no place for the table {name}.")
        text = f"{before}{start}{TABLES[name](folder)}\n{stop}{after}"
    return text


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(_line(line) for line in lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
