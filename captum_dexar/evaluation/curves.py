"""Figures of the curves of a run: measures over fractions, or over depth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
from captum_dexar.evaluation.measurements import Curve
from captum_dexar.evaluation.statistics import clustered_means, Column, Estimate
from captum_dexar.evaluation.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (7.0, 4.5)
_DPI = 150


def plot_curves(
    name: str,
    curves: Mapping[str, Curve],
    num_clusters: int,
    *,
    x_label: str = "",
    seed: int = 0,
) -> Figure:
    """One line per method: the mean over samples, with its 95 % interval as a band.

    Intervals are those of :func:`clustered_means`. Methods whose names end in
    ``(chance)`` are dashed.

    Args:
        name (str): what the curves show, the label of the y axis
        curves (Mapping): the curves, by method
        num_clusters (int): number of images of the run
        x_label (str, optional): the label of the x axis. Default: ``""``
        seed (int, optional): seed of the bootstrap. Default: 0

    Returns:
        Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    for method, curve in curves.items():
        estimates = mean_curve(curve, num_clusters, seed)
        style = "--" if method.endswith("(chance)") else "-"
        low, mean, high = (
            # None becomes NaN, which is not drawn.
            np.array([getattr(one, part) for one in estimates], dtype=float)
            for part in ("low", "value", "high")
        )
        (line,) = axes.plot(curve.x, mean, style, marker=".", label=method)
        axes.fill_between(
            curve.x, low, high, color=line.get_color(), alpha=0.2, linewidth=0
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(name)
    axes.legend(fontsize="small")
    return figure


def mean_curve(curve: Curve, num_clusters: int, seed: int = 0) -> list[Estimate]:
    """The mean at each position, over the samples that have a value there."""
    columns = []
    for position in range(len(curve.x)):
        is_known = ~np.isnan(curve.y[:, position])
        columns.append(Column(curve.y[is_known, position], curve.clusters[is_known]))
    return clustered_means(columns, num_clusters, seed)


def write_curves(summary: Summary, folder: str | Path) -> list[Path]:
    """Writes a figure per name of curves, ``curves-<name>.png``.

    Args:
        summary (Summary): the tables of the run
        folder (str or Path): the folder of the run

    Returns:
        list of Path, the figures' files
    """
    run: dict[str, Any] = summary.run
    paths = []
    for name, by_method in summary.measurements.curves().items():
        ordered = {one: by_method[one] for one in summary.methods if one in by_method}
        figure = plot_curves(
            name,
            ordered,
            summary.measurements.num_clusters,
            x_label=run["protocol"].get("x_label", ""),
            seed=int(run["seed"]),
        )
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "all"
        path = Path(folder) / f"curves-{slug}.png"
        figure.savefig(path, dpi=_DPI)
        paths.append(path)
    return paths
