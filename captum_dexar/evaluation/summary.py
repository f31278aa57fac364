"""The tables of a run: ``summary.md``, ``summary.csv`` and ``seconds.csv``.

The first two depend on what was measured and on nothing else: interrupted runs, and
runs whose samples were measured in another order, give the same bytes. Times differ
from run to run, and therefore have a table of their own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from captum_dexar.evaluation.measurements import Measurements, Values
from captum_dexar.evaluation.protocols.base import ALL, FILLER_ONLY, WHOLE_ANSWER
from captum_dexar.evaluation.results_folder import (
    read_lines,
    read_run,
    read_skipped,
    replace_text,
)
from captum_dexar.evaluation.statistics import (
    clustered_auroc,
    clustered_means,
    Estimate,
    holm,
    LEVEL,
    NUM_PERMUTATIONS,
    NUM_RESAMPLES,
    sign_flip_p,
)

REFERENCE = "DEX-AR"
SUMMARY, TABLE, SECONDS = "summary.md", "summary.csv", "seconds.csv"
WEIGHTS, AUROC = "token weights", "AUROC"
# Damaged samples and errors that the summary names; the files have all of them.
_MOST_NAMED = 20
_LONGEST_ERROR = 200
_UNKNOWN = Estimate(None, None, None)
_WITH_PLACE = (
    "words that refer to something in the image have a larger weight than words that "
    "do not"
)


@dataclass(frozen=True)
class Row:
    """What one method scores in one measure on one kind of regions.

    Attributes:
        method, kind, measure (str): what it is
        number (int): number of measurements
        images (int): number of images that they come from
        mean (Estimate): their mean and its interval
        pairs (int): number of regions that the reference method was measured on, too.
            Default: 0
        difference (Estimate): mean of the differences from the reference in these
        p (float or None): p of the differences. Default: None
        p_holm (float or None): the same, corrected for the number of methods that are
            compared with the reference in this measure and kind. Default: None
    """

    method: str
    kind: str
    measure: str
    number: int
    images: int
    mean: Estimate
    pairs: int = 0
    difference: Estimate = _UNKNOWN
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True, eq=False)
class Summary:
    """The tables of a run; see :func:`summarize`.

    Attributes:
        run (dict): what ``run.json`` says
        measurements (Measurements): what was measured
        rows (list of Row): the tables' rows, by kind, measure and method
        skipped (list of dict): the damaged samples
        reference (str): the method from which differences are taken
        methods (list of str): all methods of the run, in its order
    """

    run: dict[str, Any]
    measurements: Measurements
    rows: list[Row]
    skipped: list[dict[str, str]]
    reference: str
    methods: list[str]

    @property
    def is_complete(self) -> bool:
        """Whether every sample was measured with every method, or is skipped."""
        found = self.measurements
        lines = sum(found.lines.values()) + sum(found.errors.values())
        due: int = len(self.methods) * (self.run["samples"] - len(self.skipped))
        return lines >= due

    def table(self, kind: str) -> str:
        """The means of one kind of regions as a Markdown table."""
        return _markdown(self._cells(kind, _mean_cell))

    def brief(self) -> str:
        """What is printed: the means over all words, and of the whole answer."""
        kinds = self.measurements.kinds
        text = [self._counts()]
        for kind in kinds:
            if kind == ALL or ALL not in kinds or kind.startswith(WHOLE_ANSWER):
                text += [f"{kind}:", self.table(kind)]
        return "\n\n".join(text)

    def markdown(self) -> str:
        """The text of ``summary.md``."""
        return "\n\n".join(self._paragraphs()) + "\n"

    def csv(self) -> str:
        """The text of ``summary.csv``."""
        heading = (
            "method,kind,measure,n,images,mean,low,high,pairs,difference,"
            "difference_low,difference_high,p,p_holm,degenerate,failed"
        )
        return _csv_text(
            heading.split(","),
            (
                [
                    row.method,
                    row.kind,
                    row.measure,
                    row.number,
                    row.images,
                    *_digits(row.mean.value, row.mean.low, row.mean.high),
                    row.pairs,
                    *_digits(
                        row.difference.value,
                        row.difference.low,
                        row.difference.high,
                        row.p,
                        row.p_holm,
                    ),
                    self.measurements.constant_maps(row.method, row.kind),
                    self._failures(row.method),
                ]
                for row in self.rows
            ),
        )

    def seconds(self) -> list[list[Any]]:
        """Rows of ``seconds.csv``: method, samples, mean, median and total."""
        rows = []
        for method in self.methods:
            times = np.array(self.measurements.seconds.get(method, []))
            if len(times):
                numbers = times.mean(), np.median(times), times.sum()
                rows.append([method, len(times), *_digits(*map(float, numbers))])
        return rows

    def seconds_csv(self) -> str:
        """The text of ``seconds.csv``."""
        return _csv_text(
            ["method", "samples", "mean", "median", "total"], self.seconds()
        )

    def _failures(self, method: str) -> int:
        errors = self.measurements.errors
        return sum(number for (name, _), number in errors.items() if name == method)

    def _paragraphs(self) -> Iterable[str]:
        run, found = self.run, self.measurements
        yield f"# {run['protocol']['name']} on {run['dataset']['name']}"
        yield self._counts()
        yield (
            f"Means with {LEVEL:.0%} intervals: percentile bootstrap over images, "
            f"{NUM_RESAMPLES:,} resamples. p: sign flips of the images' paired "
            f"differences, {NUM_PERMUTATIONS:,} permutations, two-sided; in brackets "
            "corrected for the number of methods in the same column (Holm), not for "
            "that of columns and tables. All numbers: `summary.csv`. Times: "
            "`seconds.csv`. Versions, arguments and model: `run.json`."
        )
        for kind in found.kinds:
            yield f"## {kind}"
            if note := self._note(kind):
                yield note
            yield self.table(kind)
            if any(row.pairs for row in self._rows(kind)):
                yield f"Differences from {self.reference}, of the same regions:"
                yield _markdown(self._cells(kind, _difference_cell))
        if self._rows(WEIGHTS):
            yield "## Weights"
            words = run["protocol"].get("weights", _WITH_PLACE)
            yield f"The probability that {words} (AUROC). Chance: 0.5."
            yield _markdown(self._cells(WEIGHTS, _mean_cell))
        yield from self._constant()
        yield from self._failed()
        yield from self._damaged()

    def _counts(self) -> str:
        found, run = self.measurements, self.run
        text = (
            f"{found.num_samples:,} samples of {found.num_clusters:,} images measured "
            f"with {len(self.methods)} methods."
        )
        if self.skipped:
            text += f" {len(self.skipped):,} damaged samples skipped (see below)."
        if failed := sum(found.errors.values()):
            text += f" {failed:,} measurements failed (see below)."
        if not self.is_complete:
            text += (
                f" **Not finished**: the run is over {run['samples']:,} samples. The "
                "same command goes on."
            )
        return text

    def _note(self, kind: str) -> str:
        is_whole = kind.partition(":")[0] == WHOLE_ANSWER
        if not is_whole or FILLER_ONLY not in self.measurements.kinds:
            return ""
        return (
            "The map of the whole answer shows the foreground, whatever was said: read "
            "it beside the same map made of filler words only."
        )

    def _rows(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row.kind == kind]

    def _cells(self, kind: str, cell: Any) -> list[dict[str, str]]:
        table = []
        rows = self._rows(kind)
        for method in self.methods:
            own = [row for row in rows if row.method == method]
            cells = {row.measure: cell(row) for row in own}
            if not any(cells.values()):
                continue
            line = {"method": method.replace("|", "\\|")}
            if cell is _mean_cell:
                line["n"] = f"{max(row.number for row in own):,}"
            line |= cells
            table.append(line)
        return table

    def _constant(self) -> Iterable[str]:
        """How many of the measured maps say nothing."""
        found = self.measurements
        yield "## Constant maps"
        numbers = {
            method: {
                kind: number
                for kind in found.kinds
                if kind != ALL and (number := found.constant_maps(method, kind))
            }
            for method in self.methods
        }
        if not any(numbers.values()):
            yield "None."
            return
        yield "\n".join(
            f"- {method}: "
            + "; ".join(f"{kind}, {number:,}" for kind, number in by_kind.items())
            for method, by_kind in numbers.items()
            if by_kind
        )

    def _failed(self) -> Iterable[str]:
        errors = self.measurements.errors
        if not errors:
            return
        yield "## Failed"
        ordered = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
        yield "\n".join(
            f"- {method}, {number:,} samples: {_one_line(error)}"
            for (method, error), number in ordered[:_MOST_NAMED]
        )
        if len(ordered) > _MOST_NAMED:
            yield f"{len(ordered) - _MOST_NAMED:,} more in `results.jsonl`."

    def _damaged(self) -> Iterable[str]:
        if not self.skipped:
            return
        yield "## Skipped"
        ordered = sorted(self.skipped, key=lambda one: one["sample"])
        yield "\n".join(
            f"- {one['sample']}: {_one_line(one['reason'])}"
            for one in ordered[:_MOST_NAMED]
        )
        if len(ordered) > _MOST_NAMED:
            yield f"{len(ordered) - _MOST_NAMED:,} more in `skipped.jsonl`."


def summarize(folder: str | Path, reference: str = REFERENCE) -> Summary:
    """Reads what a run has measured so far.

    Args:
        folder (str or Path): the folder of the run
        reference (str, optional): the method from which differences are taken; if the
            run does not have it, its first method is. Default: ``"DEX-AR"``

    Returns:
        Summary

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: a file is damaged.
    """
    folder = Path(folder)
    run = read_run(folder)
    methods = list(run["methods"])
    if reference not in methods:
        reference = methods[0]
    found = Measurements(read_lines(folder))
    seed = int(run["seed"])
    rows = []
    order = list(run["protocol"].get("measures", []))
    for kind in found.kinds:
        measures = sorted(
            found.measures(kind),
            key=lambda name: (order.index(name) if name in order else len(order), name),
        )
        rows += _rows_of(found, kind, measures, methods, reference, seed)
    for method in methods:
        weights, is_masked = found.weights(method)
        if is_masked.any() and not is_masked.all():
            estimate = clustered_auroc(weights, is_masked, found.num_clusters, seed)
            counts = len(weights.values), weights.num_clusters
            rows.append(Row(method, WEIGHTS, AUROC, *counts, estimate))
    return Summary(run, found, rows, read_skipped(folder), reference, methods)


def write_summary(folder: str | Path, reference: str = REFERENCE) -> Summary:
    """Writes the tables of a run, and returns them; see :func:`summarize`.

    Raises:
        FileNotFoundError, ValueError: as :func:`summarize`.
        OSError: the folder can't be written.
    """
    summary = summarize(folder, reference)
    for name, text in (
        (SUMMARY, summary.markdown()),
        (TABLE, summary.csv()),
        (SECONDS, summary.seconds_csv()),
    ):
        replace_text(Path(folder) / name, text)
    return summary


def _rows_of(
    found: Measurements,
    kind: str,
    measures: Sequence[str],
    methods: Sequence[str],
    reference: str,
    seed: int,
) -> list[Row]:
    """The rows of one kind; all its columns share the resamples."""
    values: dict[tuple[str, str], Values] = {
        (measure, method): found.values(method, kind, measure)
        for measure in measures
        for method in methods
    }
    values = {key: one for key, one in values.items() if len(one.keys)}
    paired = {
        (measure, method): one.minus(values[measure, reference])
        for (measure, method), one in values.items()
        if method != reference and (measure, reference) in values
    }
    number = found.num_clusters
    columns = [one.column for one in values.values()]
    means = dict(zip(values, clustered_means(columns, number, seed)))
    compared = list(paired.values())
    differences = dict(zip(paired, clustered_means(compared, number, seed)))
    ps = dict(zip(paired, sign_flip_p(compared, number, seed)))
    corrected = _corrected(ps)
    return [
        Row(
            method,
            kind,
            measure,
            len(one.keys),
            one.column.num_clusters,
            means[key],
            len(paired[key].values) if key in paired else 0,
            differences.get(key, _UNKNOWN),
            ps.get(key),
            corrected.get(key),
        )
        for key, one in values.items()
        for measure, method in [key]
    ]


def _corrected(
    ps: Mapping[tuple[str, str], float | None],
) -> dict[tuple[str, str], float]:
    """Corrected for the number of methods, measure by measure."""
    found: dict[tuple[str, str], float] = {}
    for measure in {measure for measure, _ in ps}:
        known = {key: p for key, p in ps.items() if key[0] == measure and p is not None}
        found |= zip(known, holm(list(known.values())))
    return found


def _mean_cell(row: Row) -> str:
    return _interval_text(row.mean, "")


def _difference_cell(row: Row) -> str:
    if row.difference.value is None or row.p is None:
        return ""
    text = f"{_interval_text(row.difference, '+')}, p {_p_text(row.p)}"
    if row.p_holm is None:
        return text
    return f"{text} ({_p_text(row.p_holm).removeprefix('= ')})"


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _interval_text(estimate: Estimate, sign: str) -> str:
    if estimate.value is None:
        return ""
    text = _decimals(estimate.value, sign)
    if estimate.low is None or estimate.high is None:
        return text
    low, high = _decimals(estimate.low, sign), _decimals(estimate.high, sign)
    return f"{text} [{low}, {high}]"


def _decimals(number: float, sign: str) -> str:
    # A zero is added, so that -0.0001 is not written as -0.000.
    return f"{round(number, 3) + 0.0:{sign}.3f}"


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(columns), *text[1:]])


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_ERROR else f"{line[:_LONGEST_ERROR]}..."


def _digits(*numbers: float | None) -> list[str]:
    return ["" if number is None else f"{number:.6g}" for number in numbers]


def _csv_text(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return file.getvalue()
