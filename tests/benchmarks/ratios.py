"""The one table in which all that was measured is compared with what it should be."""

import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Ratio:
    """Of times: the median of the ratios of pairs, and the ratio of the two best."""

    median: float
    best: float


@dataclass(frozen=True)
class Limit:
    """What a value is compared with."""

    comparison: str
    value: float

    def holds(self, value: float) -> bool:
        return COMPARISONS[self.comparison](value, self.value)

    def __str__(self) -> str:
        return f"{self.comparison} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One thing that was measured, or why it was not.

    Attributes:
        what (str): in words
        value (float or None): the ratio, or what else ``unit`` says
        unit (str): empty for ratios
        best (float or None): of a ratio of times, that of the two shortest
        limit (str or None): what the value is compared with
        verdict (str): "ok", "missed", or "-" where nothing is compared
        note (str): the numbers behind the value
    """

    what: str
    value: float | None
    unit: str
    best: float | None
    limit: str | None
    verdict: str
    note: str

    def cells(self) -> list[str]:
        if self.value is None:
            measured, note = f"not measured: {self.note}", ""
        else:
            measured, note = (
                f"{self.value:.4g}{self.unit and ' ' + self.unit}",
                self.note,
            )
        best = "" if self.best is None else f"{self.best:.4g}"
        return [self.what, measured, best, self.limit or "-", self.verdict, note]


@dataclass
class RatioTable:
    """Rows in the order of measuring, and sections of text after them.

    Args:
        is_smoke_run (bool): whether sizes are so small that limits say nothing
    """

    is_smoke_run: bool
    rows: list[Row] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)

    def add(
        self,
        what: str,
        value: float,
        *,
        unit: str = "",
        best: float | None = None,
        limit: Limit | None = None,
        note: str = "",
    ) -> None:
        verdict = "-"
        if self.is_smoke_run:
            limit = None
        if limit is not None:
            verdict = "ok" if limit.holds(value) else "missed"
        shown = None if limit is None else str(limit)
        self.rows.append(Row(what, value, unit, best, shown, verdict, note))

    def add_times(
        self, what: str, ratio: Ratio, *, limit: Limit | None = None, note: str
    ) -> None:
        """A ratio of times."""
        self.add(what, ratio.median, best=ratio.best, limit=limit, note=note)

    def not_measured(self, what: str, reason: str, limit: Limit | None = None) -> None:
        shown = None if limit is None or self.is_smoke_run else str(limit)
        self.rows.append(Row(what, None, "", None, shown, "-", reason))

    def add_section(self, title: str, text: str) -> None:
        self.sections.append((title, text))

    def lines(self) -> list[str]:
        """The table, in Markdown that can be read as it is."""
        heading = ["what", "measured", "of the best", "limit", "verdict", "note"]
        table = [heading, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table)]
        # A wide last column is left ragged.
        widths[-1] = len(heading[-1])
        padded = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths)) + " |"
            for cells in table
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return [padded[0], rule, *padded[1:]]

    def markdown(self, heading: list[str]) -> str:
        parts = ["# Ratios", *heading, "\n".join(self.lines())]
        for title, text in self.sections:
            parts += [f"## {title}", text]
        return "\n\n".join(parts) + "\n"

    def as_json(self) -> dict[str, Any]:
        return {
            "smoke_run": self.is_smoke_run,
            "rows": [asdict(row) for row in self.rows],
            "sections": dict(self.sections),
        }
