"""Figures of the curves of a run: measures over fractions, or over depth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TYPE_CHECKING

import numpy as np
from captum_dexar.evaluation.measurements import Curve
from captum_dexar.evaluation.protocols.base import ALL
from captum_dexar.evaluation.statistics import clustered_means, Column, Estimate
from captum_dexar.evaluation.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (9.0, 4.5)
_DPI = 150
_ZERO_LINE = "unrelated maps"


def plot_curves(
    name: str,
    curves: Mapping[str, Curve],
    num_clusters: int,
    *,
    x_label: str = "",
    y_label: str = "",
    zero_lines: Mapping[str, float] = MappingProxyType({}),
    seed: int = 0,
) -> Figure:
    """One line per method: the mean over samples, with its 95 % interval as a band.

    Intervals are those of :func:`clustered_means`. Methods whose names end in
    ``(chance)`` are dashed.

    Args:
        name (str): what the curves show, the title
        curves (Mapping): the curves, by method
        num_clusters (int): number of images of the run
        x_label (str, optional), y_label (str, optional): the labels of the axes.
            Default: ``""``
        zero_lines (Mapping, optional): what a method's curve comes down to, by method;
            dotted lines. Default: none
        seed (int, optional): seed of the bootstrap. Default: 0

    Returns:
        Figure
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    # The usual colours are ten.
    colours = colormaps["tab10" if len(curves) <= 10 else "tab20"]
    axes.set_prop_cycle(color=[colours(place) for place in range(colours.N)])
    shown: list[Line2D] = []
    for method, curve in curves.items():
        estimates = mean_curve(curve, num_clusters, seed)
        style = "--" if method.endswith("(chance)") else "-"
        low, mean, high = (
            # None becomes NaN, which is not drawn.
            np.array([getattr(one, part) for one in estimates], dtype=float)
            for part in ("low", "value", "high")
        )
        (line,) = axes.plot(curve.x, mean, style, marker=".", label=method)
        shown.append(line)
        axes.fill_between(
            curve.x, low, high, color=line.get_color(), alpha=0.2, linewidth=0
        )
        if method in zero_lines:
            axes.axhline(
                zero_lines[method],
                color=line.get_color(),
                linestyle=":",
                label=f"{method}, {_ZERO_LINE}",
            )
    axes.set_title(name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if zero_lines:
        shown.append(Line2D([], [], color="gray", linestyle=":", label=_ZERO_LINE))
    figure.legend(handles=shown, fontsize="small", loc="outside right upper")
    return figure


def mean_curve(curve: Curve, num_clusters: int, seed: int = 0) -> list[Estimate]:
    """The mean at each position, over the samples that have a value there."""
    columns = []
    for position in range(len(curve.x)):
        is_known = ~np.isnan(curve.y[:, position])
        columns.append(Column(curve.y[is_known, position], curve.clusters[is_known]))
    return clustered_means(columns, num_clusters, seed)


def curve_figures(summary: Summary) -> dict[str, Figure]:
    """A figure per name of curves, with the labels that the protocol gives."""
    run: dict[str, Any] = summary.run
    protocol: dict[str, Any] = run["protocol"]
    figures = {}
    for name, by_method in summary.measurements.curves().items():
        ordered = {one: by_method[one] for one in summary.methods if one in by_method}
        figures[name] = plot_curves(
            name,
            ordered,
            summary.measurements.num_clusters,
            x_label=protocol.get("x_label", ""),
            y_label=protocol.get("y_label", ""),
            zero_lines=_means(summary, protocol.get("zero_lines", {}).get(name)),
            seed=int(run["seed"]),
        )
    return figures


def write_curves(summary: Summary, folder: str | Path) -> list[Path]:
    """Writes a figure per name of curves, ``curves-<name>.png``.

    Args:
        summary (Summary): the tables of the run
        folder (str or Path): the folder of the run

    Returns:
        list of Path, the figures' files
    """
    paths = []
    for name, figure in curve_figures(summary).items():
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "all"
        path = Path(folder) / f"curves-{slug}.png"
        figure.savefig(path, dpi=_DPI)
        paths.append(path)
    return paths


def _means(summary: Summary, measure: str | None) -> dict[str, float]:
    """A measure's mean over all words or, without words, of the whole answer."""
    rows = [row for row in summary.rows if row.measure == measure]
    kinds = [row.kind for row in rows]
    chosen = ALL if ALL in kinds else next(iter(kinds), None)
    return {
        row.method: row.mean.value
        for row in rows
        if row.kind == chosen and row.mean.value is not None
    }
