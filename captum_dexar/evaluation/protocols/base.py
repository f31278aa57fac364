"""The interface of protocols, and the line that one gives per sample and method."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from captum.attr import Attribution
from captum_dexar.evaluation.dataset import EvaluationDataset, Example
from torch import Tensor

Methods = Mapping[str, tuple[Attribution, Mapping[str, Any]]]
# The kind that the summary forms of all kinds of words. Kinds that begin like those
# below are no part of it: the map of the whole answer, words that refer to nothing.
ALL = "all"
WHOLE_ANSWER = "whole answer"
FILLER_ONLY = f"{WHOLE_ANSWER}, filler words only"
FILLER = "filler words"
APART = (WHOLE_ANSWER, FILLER)


@dataclass(frozen=True)
class Line:
    """What was measured of one sample with one method: a line of ``results.jsonl``.

    Numbers that are not finite become None, because JSON has no others. NumPy's and
    torch's numbers become Python's.

    Attributes:
        sample (str): the sample's id, unique in the dataset
        image (str): the image's id; samples of one image are not independent
        method (str): the method's name in tables
        seconds (float): time of explaining, without generating and measuring
        values (dict): ``values[kind][measure]`` is a list with a number per region of
            this kind. Regions without a label have the kind ``""``, and measurements
            of the map of the whole answer a kind that begins with ``"whole answer"``.
            ``"all"`` is no kind: the summary forms it of all the others but these and
            ``"filler words"``
        degenerate (dict): how many of the measured maps are constant, by kind; kinds
            without any may be left out
        details (dict): what the protocol keeps besides. Known to the summary and the
            figures: ``"curves"``, ``{name: {"x": [...], "y": [...]}}``;
            ``"token_weights"``, ``{"with_mask": [...], "without": [...]}``, or
            ``{"with_effect": [...], "without_effect": [...]}``; and ``"answer"``, a
            text
        error (str or None): why nothing was measured; values are then empty.
            Default: None

    Raises:
        ValueError: an id or the method is empty; a number is negative that can't be;
            the kind is ``"all"``; values beside an error.
        TypeError: a value is not a list of numbers, or details hold what JSON can't.

    Examples::

        >>> from captum_dexar.evaluation.protocols.base import Line
        >>> line = Line("7", "7", "DEX-AR", 0.1, {"colour": {"EPG": [0.5]}})
        >>> Line.from_json(line.to_json()) == line
        True
    """

    sample: str
    image: str
    method: str
    seconds: float
    values: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    degenerate: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        for name in ("sample", "image", "method"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text:
                raise ValueError(
                    f"{name} must be a text of one character or more, " f"got {text!r}."
                )
        for name in ("seconds", "degenerate", "values", "details"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if not _is_number(self.seconds) or self.seconds < 0:
            raise ValueError(
                f"seconds must be a number, 0 or more, got {self.seconds!r}."
            )
        if not isinstance(self.degenerate, dict) or not all(
            isinstance(number, int) and _is_number(number) and number >= 0
            for number in self.degenerate.values()
        ):
            raise ValueError(
                "degenerate must be a dict of whole numbers by kind, 0 or more, got "
                f"{self.degenerate!r}."
            )
        _check_values(self.values)
        if not isinstance(self.details, dict):
            raise TypeError(f"details must be a dict, got {self.details!r}.")
        if self.error is not None and (self.values or not self.error):
            raise ValueError(
                f"An error is a text, and no values stand beside it; got "
                f"{self.error!r} and {self.values}."
            )

    def to_json(self) -> str:
        """One line of text, without a line feed."""
        return as_json(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Line:
        """The line of a text from :meth:`to_json`.

        Raises:
            ValueError: the text is no such line.
        """
        found = json.loads(text)
        names = {one.name for one in fields(cls)}
        if not isinstance(found, dict) or set(found) != names:
            raise ValueError(
                f"Expected a JSON object with {', '.join(sorted(names))}, got {text!r}."
            )
        try:
            return cls(**found)
        except TypeError as error:
            raise ValueError(f"{text!r}: {error}") from error


class EvaluationProtocol(ABC):
    """How maps are measured on a sample.

    Attributes:
        name (str): its name on the command line
        controls (tuple of str): names of the methods that the command line adds to
            those that are asked for: chance, and the most that a map can score
    """

    name: str
    controls: tuple[str, ...] = ()

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What makes two runs comparable, its name included, as JSON takes it.

        If there, ``"measures"`` is the order of the measures in tables; ``"x_label"``
        and ``"y_label"`` are the labels of the figures' axes; ``"zero_lines"`` is, by
        the name of a figure, the measure whose mean is its zero line; and
        ``"weights"`` says which words should have the larger weight.
        """

    @abstractmethod
    def measure(
        self,
        methods: Methods,
        example: Example,
        processor: Any,
        *,
        sample: str,
        image: str,
        seed: int,
    ) -> Iterator[Line]:
        """Yields a line per method, in the order of ``methods``.

        What it raises belongs to the first method that has no line yet: the runner
        records it, and calls again with the methods after it. A method's line must
        therefore not depend on which other methods are given.

        Args:
            methods (Mapping): methods and arguments of their ``attribute``, by name
            example (tuple): input, answer (None: the model generates it, greedily and
                once for all methods) and regions
            processor (ProcessorMixin): the model's processor
            sample (str), image (str): ids for the lines
            seed (int): the sample's own seed, for everything random
        """


class DatasetProtocol(EvaluationProtocol):
    """A protocol that asks its dataset for more than the examples.

    Attributes:
        dataset (EvaluationDataset): the dataset that it measures
    """

    dataset: EvaluationDataset

    def index_of(self, sample: str) -> int:
        """The index of a sample in the dataset.

        Raises:
            ValueError: the dataset has no such sample.
        """
        index = self._indices.get(sample)
        if index is None:
            raise ValueError(
                f"The protocol's dataset ({self.dataset.name}) has no sample "
                f"{sample!r}. Construct the protocol with the dataset that it measures."
            )
        return index

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {self.dataset.sample_id(i): i for i in range(len(self.dataset))}


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that is readable, and can be written as UTF-8 whatever it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, as in names of files
        return json.dumps(value, allow_nan=False, indent=indent)
    return text


def plain(value: Any) -> Any:
    """A value as JSON takes it; numbers that are not finite become None.

    Raises:
        TypeError: JSON has no such type, or a key is not a text.
    """
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"Keys must be texts, got {wrong[0]!r}.")
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(one) for one in value]
    raise TypeError(
        f"Expected numbers, texts, lists and dicts, got a {type(value).__name__}."
    )


def _check_values(values: Any) -> None:
    if not isinstance(values, dict) or ALL in values:
        raise ValueError(
            f"values must be a dict by kind without {ALL!r}, which the summary forms; "
            f"got {values!r}."
        )
    for kind, measures in values.items():
        is_dict = isinstance(measures, dict)
        if not is_dict or not all(map(_are_numbers, measures.values())):
            raise TypeError(
                f"values[{kind!r}] must be a dict of lists of numbers, got "
                f"{measures!r}."
            )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        one is None or _is_number(one) for one in values
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
