"""Intervals and tests against hand-computed cases, literal loops and simulations."""

import itertools
from inspect import signature
from typing import Any

import numpy as np
import pytest
from captum_dexar.evaluation import statistics
from captum_dexar.evaluation.statistics import (
    clustered_auroc,
    clustered_means,
    Column,
    Estimate,
    holm,
    sign_flip_p,
)
from scipy.stats import permutation_test
from sklearn.metrics import roc_auc_score

# SciPy before 1.15 calls it otherwise.
SEEDED = "rng" if "rng" in signature(permutation_test).parameters else "random_state"


def column(values: list[float], clusters: list[int]) -> Column:
    return Column(np.array(values, dtype=float), np.array(clusters, dtype=np.int64))


def random_column(seed: int, num_clusters: int, shift: float = 0.0) -> Column:
    """One to four measurements per cluster, which share the cluster's own effect."""
    generator = np.random.default_rng(seed)
    clusters = np.repeat(
        np.arange(num_clusters), generator.integers(1, 5, num_clusters)
    )
    effect = generator.normal(size=num_clusters)[clusters]
    return Column(effect + 0.3 * generator.normal(size=len(clusters)) + shift, clusters)


def literal_means(data: Column, num_clusters: int, seed: int) -> list[float]:
    """The means of resamples, each put together measurement by measurement."""
    generator = np.random.default_rng(seed)
    shares = [1 / num_clusters] * num_clusters
    means = []
    for _ in range(statistics.NUM_RESAMPLES):
        drawn: list[float] = []
        for cluster, times in enumerate(generator.multinomial(num_clusters, shares)):
            drawn += list(data.values[data.clusters == cluster]) * int(times)
        if drawn:
            means.append(sum(drawn) / len(drawn))
    return means


def test_intervals_equal_a_literal_bootstrap() -> None:
    first, second = random_column(1, 9), random_column(2, 7)
    lonely = column([3.0, 5.0], [8, 8])
    found = clustered_means([first, second, lonely], 9, seed=5)
    for data, estimate in zip((first, second), found):
        ends = np.quantile(literal_means(data, 9, 5), [0.025, 0.975])
        assert [estimate.low, estimate.high] == pytest.approx(list(ends))
        assert estimate.value == pytest.approx(data.values.mean())
    assert found[2] == Estimate(4.0, None, None)
    assert clustered_means([column([], [])], 3) == [Estimate(None, None, None)]
    assert clustered_means([], 3) == []


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_column(3, 20)
    positive = data.values > 0.2
    noise = Column(np.random.default_rng(4).normal(size=len(positive)), data.clusters)

    def everything() -> list[object]:
        return [
            clustered_means([data], 20, 1),
            sign_flip_p([data], 20, 1),
            clustered_auroc(noise, positive, 20, 1),
        ]

    whole = everything()
    monkeypatch.setattr(statistics, "_BLOCK", 100)
    assert everything() == whole
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 20)
    assert everything() != whole


def test_more_measurements_of_an_image_are_no_more_images() -> None:
    """Copies within clusters leave the interval; copies of clusters narrow it."""
    data = random_column(6, 30)
    copied = Column(np.tile(data.values, 4), np.tile(data.clusters, 4))
    more = Column(
        np.tile(data.values, 4),
        np.concatenate([data.clusters + 30 * k for k in range(4)]),
    )
    (one,) = clustered_means([data], 30)
    (same,) = clustered_means([copied], 30)
    (narrow,) = clustered_means([more], 120)
    assert [same.low, same.high] == pytest.approx([one.low, one.high])
    ratio = (one.high - one.low) / (narrow.high - narrow.low)
    assert ratio == pytest.approx(2, rel=0.15)


def test_the_interval_covers_the_mean() -> None:
    """Of 95 % intervals of simulated data nearly 95 % hold the true mean, 1."""
    columns = [random_column(seed, 60, shift=1.0) for seed in range(400)]
    covered = [
        one.low <= 1 <= one.high for one in clustered_means(columns, 60, seed=11)
    ]
    assert 0.915 <= np.mean(covered) <= 0.975
    # Regions taken for independent images give intervals that are too narrow.
    naive = []
    for data in columns[:100]:
        alone = Column(data.values, np.arange(len(data.values)))
        (one,) = clustered_means([alone], len(data.values))
        naive.append(one.low <= 1 <= one.high)
    assert np.mean(naive) < 0.85


def literal_p(sums: Any) -> float:
    """All signs, one by one."""
    signs = list(itertools.product([1, -1], repeat=len(sums)))
    flipped = [abs(sum(s * x for s, x in zip(one, sums))) for one in signs]
    return sum(one >= abs(sum(sums)) - 1e-9 for one in flipped) / len(signs)


def test_few_clusters_are_flipped_in_every_way() -> None:
    assert sign_flip_p([column([1, 2, 6], [0, 1, 2])], 3) == [0.25]
    # 3 - 2 = 1: of eight sums of 3, 2, 0 all are as large in size.
    assert sign_flip_p([column([3, -2], [0, 1])], 3) == [1.0]
    data = random_column(8, 8, shift=0.7)
    sums = np.bincount(data.clusters, data.values)
    (found,) = sign_flip_p([data], 8)
    assert found == literal_p(sums)
    expected = permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=10_000
    )
    assert found == pytest.approx(expected.pvalue)


def test_many_clusters_are_flipped_at_random() -> None:
    shifts = (0.0, 0.2, 0.5)
    columns = [random_column(9, 40, shift=shift) for shift in shifts]
    for data, p in zip(columns, sign_flip_p(columns, 40)):
        expected = permutation_test(
            (np.bincount(data.clusters, data.values),),
            lambda x, axis: np.sum(x, axis),
            permutation_type="samples",
            n_resamples=20_000,
            vectorized=True,
            **{SEEDED: np.random.default_rng(0)},
        )
        assert p == pytest.approx(expected.pvalue, abs=0.02)
    strong = column([1.0] * 40, list(range(40)))
    nothing = column([0.0] * 40, list(range(40)))
    empty = column([], [])
    assert sign_flip_p([strong, nothing, empty], 40) == [1 / 10_000, 1.0, None]
    assert sign_flip_p([], 40) == []


def test_without_a_difference_every_p_is_as_likely() -> None:
    columns = [random_column(seed, 30) for seed in range(500)]
    found = np.array(sign_flip_p(columns, 30))
    assert abs((found <= 0.05).mean() - 0.05) < 0.025
    assert abs((found <= 0.5).mean() - 0.5) < 0.06


def test_the_interval_of_an_auroc_equals_scikit_learns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 200)
    generator = np.random.default_rng(12)
    clusters = np.repeat(np.arange(12), 4)
    # Few values, so that there are many ties.
    weights = generator.integers(0, 5, 48).astype(float)
    positive = generator.random(48) < 0.4
    found = clustered_auroc(Column(weights, clusters), positive, 12, seed=7)
    draws = np.random.default_rng(7).multinomial(12, [1 / 12] * 12, 200)
    literal = [
        roc_auc_score(positive, weights, sample_weight=drawn[clusters])
        for drawn in draws
    ]
    assert found.value == pytest.approx(roc_auc_score(positive, weights))
    ends = np.quantile(literal, [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(list(ends))
    alone = clustered_auroc(column([1, 2], [0, 1]), np.ones(2, bool), 2)
    assert alone == Estimate(None, None, None)


def test_holm_by_hand() -> None:
    """The smallest times four, the next times three ..., and never less than before."""
    assert holm([0.5, 0.02, 0.01, 0.04]) == pytest.approx([0.5, 0.06, 0.04, 0.08])
    assert holm([0.01, 0.011, 0.012]) == pytest.approx([0.03, 0.03, 0.03])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.2, 0.2, 0.2]) == pytest.approx([0.6, 0.6, 0.6])
    assert holm([0.03]) == [0.03] and holm([]) == []


def test_holm_keeps_its_promise() -> None:
    """Of 2,000 families without any difference, 5 % have a corrected p below 0.05."""
    families = np.random.default_rng(1).random((2000, 8))
    wrong = sum(min(holm(family.tolist())) <= 0.05 for family in families)
    assert 70 < wrong < 130
    uncorrected = (families.min(1) <= 0.05).sum()
    assert uncorrected > 500
