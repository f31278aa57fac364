"""The numbers of ``results.jsonl`` as compact columns, in an order of their own.

The file is read line by line, and a line is dropped when its numbers are taken. What
comes out does not depend on the order of lines.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from captum_dexar.evaluation.protocols.base import ALL, APART, FILLER_ONLY, Line
from captum_dexar.evaluation.statistics import Bools, Column, Floats, Ints

# More regions of one kind in one sample than there ever are.
_MOST_REGIONS = 2**20
# Weights of words in a line's details, and whether they should be the larger ones.
_WEIGHTS = {
    "with_mask": True,
    "without": False,
    "with_effect": True,
    "without_effect": False,
}


@dataclass(frozen=True, eq=False)
class Values:
    """Measurements of one method, kind and measure, in the order of their keys.

    Attributes:
        keys (ndarray): ``(n,)``, int64; measurements of several methods with the same
            key are of the same region of the same sample
        column (Column): the values and their clusters
    """

    keys: Ints
    column: Column

    def minus(self, other: Values) -> Column:
        """Differences where both have a value, ``self - other``."""
        _, ours, theirs = np.intersect1d(
            self.keys, other.keys, assume_unique=True, return_indices=True
        )
        return Column(
            self.column.values[ours] - other.column.values[theirs],
            self.column.clusters[ours],
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """One method's curves of one name, over all samples.

    Attributes:
        x (tuple of float): the positions
        y (ndarray): ``(samples, positions)``, NaN where a sample has no value
        clusters (ndarray): ``(samples,)``, int64
        left_out (int): number of samples whose curve has other positions
    """

    x: tuple[float, ...]
    y: Floats
    clusters: Ints
    left_out: int


class Measurements:
    """What a run has measured.

    Args:
        lines (iterable of Line): the lines, in any order

    Raises:
        ValueError: a sample has two lines of one method.

    Attributes:
        lines (Counter): number of lines without an error, by method
        errors (Counter): number of lines by method and error
        degenerate (Counter): number of constant maps, by method and kind
        seconds (dict): times of explaining, by method, in no particular order
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines: Counter[str] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.degenerate: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._seen: dict[str, bytearray] = defaultdict(bytearray)
        self._samples: dict[str, int] = {}
        self._images: dict[str, int] = {}
        self._image_of_sample = array("q")
        self._values: dict[tuple[str, str, str], _Entries] = defaultdict(_Entries)
        self._weights: dict[tuple[str, bool], _Entries] = defaultdict(_Entries)
        self._curves: dict[tuple[str, str, tuple[float, ...]], _Entries] = defaultdict(
            _Entries
        )
        for line in lines:
            self._add(line)
        self._rank, self._cluster = self._canonical()

    def _add(self, line: Line) -> None:
        sample = self._samples.setdefault(line.sample, len(self._samples))
        if sample == len(self._image_of_sample):
            image = self._images.setdefault(line.image, len(self._images))
            self._image_of_sample.append(image)
        seen = self._seen[line.method]
        seen.extend(bytes(max(0, sample + 1 - len(seen))))
        if seen[sample]:
            raise ValueError(
                f"Sample {line.sample} has two lines of the method {line.method}. "
                "Remove one."
            )
        seen[sample] = True
        if line.error is not None:
            self.errors[line.method, line.error] += 1
            return
        self.lines[line.method] += 1
        for kind, constant in line.degenerate.items():
            self.degenerate[line.method, kind] += constant
        self.seconds[line.method].append(line.seconds)
        for kind, measures in line.values.items():
            for name, numbers in measures.items():
                entries = self._values[line.method, kind, name]
                for region, number in enumerate(numbers):
                    entries.add(sample, region, number)
        weights = line.details.get("token_weights", {})
        for part, is_positive in _WEIGHTS.items():
            for place, number in enumerate(weights.get(part, [])):
                self._weights[line.method, is_positive].add(sample, place, number)
        for name, curve in line.details.get("curves", {}).items():
            entries = self._curves[line.method, name, tuple(curve["x"])]
            for place, number in enumerate(curve["y"]):
                entries.add(sample, place, np.nan if number is None else number)

    def _canonical(self) -> tuple[Ints, Ints]:
        """Of each sample its place among their sorted ids, and that of its image."""
        rank = np.empty(len(self._samples), dtype=np.int64)
        rank[[self._samples[one] for one in sorted(self._samples)]] = np.arange(
            len(rank)
        )
        images = np.empty(len(self._images), dtype=np.int64)
        images[[self._images[one] for one in sorted(self._images)]] = np.arange(
            len(images)
        )
        return rank, images[np.array(self._image_of_sample, dtype=np.int64)]

    @property
    def num_samples(self) -> int:
        """The number of samples with a line."""
        return len(self._samples)

    @property
    def num_clusters(self) -> int:
        """The number of images with a line."""
        return len(self._images)

    @property
    def kinds(self) -> list[str]:
        """Kinds of the tables: the labelled ones, ``"all"``, and those apart from it:
        filler words', and the whole answer's."""
        found = {kind for _, kind, _ in self._values}
        apart = {kind for kind in found if kind.startswith(APART)}
        labelled = found - apart - {""}
        together = [ALL] if "" in found or len(labelled) > 1 else []
        # The control stands behind what it is a control of.
        behind = sorted(apart, key=lambda kind: (kind == FILLER_ONLY, kind))
        return [*sorted(labelled, key=_natural), *together, *behind]

    def measures(self, kind: str) -> list[str]:
        """Names of the measures of a kind."""
        parts = self._parts(kind)
        return sorted({name for _, one, name in self._values if one in parts})

    def values(self, method: str, kind: str, measure: str) -> Values:
        """The measurements of a kind, ``"all"`` included."""
        keys, numbers, clusters = [], [], []
        for part, one in enumerate(self._parts(kind)):
            entries = self._values.get((method, one, measure))
            if entries is not None:
                own_keys, own_numbers, samples = entries.arrays(self._rank)
                keys.append(own_keys + part * _MOST_REGIONS * len(self._rank))
                numbers.append(own_numbers)
                clusters.append(self._cluster[samples])
        if not keys:
            none = np.empty(0, dtype=np.int64)
            return Values(none, Column(np.empty(0), none))
        return Values(
            np.concatenate(keys),
            Column(np.concatenate(numbers), np.concatenate(clusters)),
        )

    def constant_maps(self, method: str, kind: str) -> int:
        """The number of a method's constant maps of a kind, ``"all"`` included."""
        return sum(self.degenerate[method, one] for one in self._parts(kind))

    def weights(self, method: str) -> tuple[Column, Bools]:
        """A method's weights, and which of them should be the larger ones: those of
        words with a mask, or with an effect."""
        parts = []
        for is_positive in (True, False):
            entries = self._weights.get((method, is_positive), _Entries())
            _, numbers, samples = entries.arrays(self._rank)
            parts.append(Column(numbers, self._cluster[samples]))
        larger, smaller = parts
        return (
            Column(
                np.concatenate([larger.values, smaller.values]),
                np.concatenate([larger.clusters, smaller.clusters]),
            ),
            np.arange(len(larger.values) + len(smaller.values)) < len(larger.values),
        )

    def curves(self) -> dict[str, dict[str, Curve]]:
        """The curves, by name and method."""
        found: dict[str, dict[str, Curve]] = defaultdict(dict)
        by_name: dict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
        for method, name, x in self._curves:
            by_name[name, method].append(x)
        for (name, method), positions in sorted(by_name.items()):
            numbers = {
                x: len(self._curves[method, name, x]) // len(x) for x in positions if x
            }
            if not numbers:
                continue
            x = min(numbers, key=lambda one: (-numbers[one], one))
            _, y, samples = self._curves[method, name, x].arrays(self._rank)
            found[name][method] = Curve(
                x,
                y.reshape(-1, len(x)),
                self._cluster[samples[:: len(x)]],
                sum(numbers.values()) - numbers[x],
            )
        return dict(found)

    def _parts(self, kind: str) -> list[str]:
        if kind != ALL:
            return [kind]
        found = {one for _, one, _ in self._values}
        return sorted(one for one in found if not one.startswith(APART))


class _Entries:
    """Numbers with their sample and their place in it."""

    def __init__(self) -> None:
        self.numbers = array("d")
        self.samples = array("q")
        self.places = array("q")

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, sample: int, place: int, number: float | None) -> None:
        """Adds a number; None is left out."""
        if number is not None:
            self.numbers.append(number)
            self.samples.append(sample)
            self.places.append(place)

    def arrays(self, rank: Ints) -> tuple[Ints, Floats, Ints]:
        """Keys, numbers and samples, in the order of the keys."""
        samples = np.array(self.samples, dtype=np.int64)
        keys = rank[samples] * _MOST_REGIONS + np.array(self.places, dtype=np.int64)
        order = np.argsort(keys)
        return keys[order], np.array(self.numbers)[order], samples[order]


def _natural(text: str) -> list[Any]:
    """Sorts "layer 10" behind "layer 9"."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if part.isdigit() else part for part in parts]
