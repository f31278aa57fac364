r"""Means, intervals and tests of measurements that come in clusters.

Several regions, questions or words of one image are not independent: what is drawn
again in the bootstrap, or flipped in the permutation test, is an image with all its
measurements. Everything random is seeded, and depends on nothing but the data and the
seed.

Columns of measurements are reduced to a sum and a number per cluster first, so that
thousands of resamples of all columns of a table are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from captum_dexar.metrics import token_weight_auroc

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

NUM_RESAMPLES = 2000
NUM_PERMUTATIONS = 9999
LEVEL = 0.95
# Numbers of a block of resamples, 8 MiB.
_BLOCK = 2**20


@dataclass(frozen=True)
class Column:
    """Measurements, one after another, and the cluster of each.

    Attributes:
        values (ndarray): ``(measurements,)``, float64, finite
        clusters (ndarray): ``(measurements,)``, int64, from 0 to the number of clusters
            of the whole table
    """

    values: Floats
    clusters: Ints

    @property
    def num_clusters(self) -> int:
        """The number of clusters that have a measurement."""
        return len(np.unique(self.clusters))


@dataclass(frozen=True)
class Estimate:
    """A mean and the interval that covers it.

    Attributes:
        value (float or None): the estimate; None if there are no measurements
        low, high (float or None): the ends of the interval; None where it is not known,
            with fewer than two clusters
    """

    value: float | None
    low: float | None
    high: float | None


def clustered_means(
    columns: list[Column], num_clusters: int, seed: int = 0
) -> list[Estimate]:
    """The mean of each column, with a bootstrap interval clustered by image.

    The percentile bootstrap: all clusters of the table are drawn ``NUM_RESAMPLES``
    times with replacement, and a column's mean is that of all measurements of the drawn
    clusters. The interval is from the 2.5th to the 97.5th percentile of these means.
    Clusters without a measurement in a column are drawn, too: how many measurements
    there are is also a matter of chance.

    Args:
        columns (list of Column): the columns
        num_clusters (int): number of clusters of the whole table
        seed (int, optional): seed of the draws, the same for all columns. Default: 0

    Returns:
        list of Estimate

    Examples::

        >>> import numpy as np
        >>> values, clusters = np.array([1.0, 2.0, 6.0]), np.array([0, 0, 1])
        >>> clustered_means([Column(values, clusters)], 2)
        [Estimate(value=3.0, low=1.5, high=6.0)]
    """
    if not columns:
        return []
    sums, counts = _by_cluster(columns, num_clusters)
    means = np.concatenate(
        [
            _ratio(drawn @ sums, drawn @ counts)
            for drawn in _draws(num_clusters, NUM_RESAMPLES, seed)
        ]
    )
    return [
        Estimate(
            float(column.values.mean()) if len(column.values) else None,
            *_interval(means[:, place], column.num_clusters),
        )
        for place, column in enumerate(columns)
    ]


def sign_flip_p(
    differences: list[Column], num_clusters: int, seed: int = 0
) -> list[float | None]:
    """Two-sided p of paired differences: how often chance gives one as large.

    The null hypothesis: the differences of a cluster are as likely as their opposites.
    The sign of each cluster's sum is flipped at random, and p is the share of
    ``NUM_PERMUTATIONS`` flips, and the data themselves, whose sum is at least as large
    in size. With few clusters, all flips are counted instead, and p is exact.

    Args:
        differences (list of Column): differences of pairs
        num_clusters (int): number of clusters of the whole table
        seed (int, optional): seed of the flips. Default: 0

    Returns:
        list of float; None for a column without differences

    Examples::

        >>> import numpy as np
        >>> values, clusters = np.array([1.0, 2.0, 6.0]), np.array([0, 1, 2])
        >>> sign_flip_p([Column(values, clusters)], 3)  # +++ and --- of eight
        [0.25]
    """
    if not differences:
        return []
    sums, counts = _by_cluster(differences, num_clusters)
    observed = np.abs(sums.sum(0))
    # Sums of the same numbers in another order differ by rounding.
    least = observed - 1e-12 * np.abs(sums).sum(0)
    is_exact = 2**num_clusters <= NUM_PERMUTATIONS
    total, larger = 0, np.zeros(len(differences))
    for signs in _signs(num_clusters, is_exact, seed):
        larger += (np.abs(signs @ sums) >= least).sum(0)
        total += len(signs)
    # Of random flips, the data themselves are one.
    extra = 0 if is_exact else 1
    shares = (larger + extra) / (total + extra)
    return [float(p) if n else None for p, n in zip(shares, counts.sum(0))]


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction of p values for their number.

    Whatever the dependence between them, the probability that any true hypothesis has a
    corrected p of 0.05 or less is at most 0.05.

    Args:
        ps (sequence of float): the p values that are read together

    Returns:
        list of float, in the same order; at least as large, and at most 1

    Examples::

        >>> holm([0.5, 0.02, 0.01, 0.04])
        [0.5, 0.06, 0.04, 0.08]
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[index]))
        corrected[index] = largest
    return corrected


def clustered_auroc(
    weights: Column, is_positive: Bools, num_clusters: int, seed: int = 0
) -> Estimate:
    """:func:`token_weight_auroc` with a bootstrap interval clustered by image.

    Args:
        weights (Column): the weights
        is_positive (ndarray): ``(measurements,)``, bool
        num_clusters (int): number of clusters of the whole table
        seed (int, optional): seed of the draws. Default: 0

    Returns:
        Estimate
    """
    value = token_weight_auroc(weights.values.tolist(), is_positive.tolist())
    if value is None:
        return Estimate(None, None, None)
    order = np.argsort(weights.values, kind="stable")
    clusters, positive = weights.clusters[order], is_positive[order]
    # The first and the last of those with the same weight.
    _, first, number = np.unique(
        weights.values[order], return_index=True, return_counts=True
    )
    start, stop = np.repeat(first, number), np.repeat(first + number, number)
    found = []
    for drawn in _draws(num_clusters, NUM_RESAMPLES, seed, len(order)):
        times = drawn[:, clusters]
        negatives = np.pad(np.cumsum(times * ~positive, axis=1), ((0, 0), (1, 0)))
        below = (negatives[:, start] + negatives[:, stop]) / 2
        positives = times * positive
        pairs = positives.sum(1) * negatives[:, -1]
        found.append(_ratio((positives * below).sum(1), pairs))
    return Estimate(value, *_interval(np.concatenate(found), weights.num_clusters))


def _by_cluster(columns: list[Column], num_clusters: int) -> tuple[Floats, Floats]:
    """Sum and number of each column's values, each ``(clusters, columns)``."""
    sums, counts = np.zeros((2, num_clusters, len(columns)))
    for place, column in enumerate(columns):
        sums[:, place] = np.bincount(column.clusters, column.values, num_clusters)
        counts[:, place] = np.bincount(column.clusters, minlength=num_clusters)
    return sums, counts


def _draws(
    num_clusters: int, number: int, seed: int, width: int = 0
) -> Iterator[Floats]:
    """Blocks of resamples: how often each cluster is drawn, ``(block, clusters)``."""
    generator = np.random.default_rng(seed)
    shares = np.full(num_clusters, 1 / num_clusters)
    for size in _block_sizes(number, max(num_clusters, width)):
        yield generator.multinomial(num_clusters, shares, size).astype(np.float64)


def _signs(num_clusters: int, is_exact: bool, seed: int) -> Iterator[Floats]:
    """Blocks of signs, ``(block, clusters)``: all that there are, or random ones."""
    if is_exact:
        bits = np.arange(2**num_clusters)[:, None] >> np.arange(num_clusters) & 1
        yield (1 - 2 * bits).astype(np.float64)
        return
    generator = np.random.default_rng(seed)
    for size in _block_sizes(NUM_PERMUTATIONS, num_clusters):
        bits = generator.integers(0, 2, (size, num_clusters), dtype=np.int8)
        yield (1 - 2 * bits).astype(np.float64)


def _block_sizes(number: int, width: int) -> Iterator[int]:
    block = max(1, _BLOCK // width)
    for start in range(0, number, block):
        yield min(block, number - start)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Their ratio; NaN where nothing was drawn."""
    empty = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator > 0)


def _interval(
    resampled: Floats, num_clusters: int
) -> tuple[float, float] | tuple[None, None]:
    known = resampled[~np.isnan(resampled)]
    if num_clusters < 2 or not len(known):
        return None, None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
