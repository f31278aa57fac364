"""Lines of results.jsonl, there and back."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar.evaluation.protocols.base import Line

VALUES: dict[str, Any] = {"": {"EPG": [0.5, 1]}, "Farbe ü": {"EPG": []}}


def test_a_line_comes_back_as_it_was() -> None:
    details = {
        "answer": 'a "red"\ncircle \u2028',
        "curves": {"x": {"x": [0], "y": [1.5]}},
    }
    line = Line("s/1", "1", "DEX-AR", 0.25, VALUES, {"": 3}, details)
    text = line.to_json()
    assert "\n" not in text
    assert Line.from_json(text) == line
    failed = Line("1", "1", "IG", 0, error="ValueError: no")
    assert Line.from_json(failed.to_json()) == failed


def test_numbers_are_what_json_has() -> None:
    values: Any = {
        "k": {
            "a": np.array([1.5, np.nan]),
            "b": torch.tensor([1.0, float("inf")]),
            "c": [np.float32(0.5), True + 1, -float("inf")],
        }
    }
    details = {"n": np.int64(3), "t": torch.tensor(2.5), "pair": (1, float("nan"))}
    constant: Any = {"k": np.int64(2)}
    line = Line("1", "1", "m", np.float64(0.5), values, constant, details)
    assert line.values == {
        "k": {"a": [1.5, None], "b": [1.0, None], "c": [0.5, 2, None]}
    }
    assert line.details == {"n": 3, "t": 2.5, "pair": [1, None]}
    assert line.degenerate == {"k": 2} and json.loads(line.to_json())["seconds"] == 0.5


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"sample": ""}, ValueError, "sample must be a text of one character"),
        ({"method": 3}, ValueError, "method must be a text"),
        ({"seconds": -1.0}, ValueError, "seconds must be a number, 0 or more"),
        ({"seconds": float("nan")}, ValueError, "seconds must be a number"),
        ({"degenerate": 2}, ValueError, "degenerate must be a dict of whole numbers"),
        ({"degenerate": {"k": 1.5}}, ValueError, "degenerate must be a dict"),
        ({"degenerate": {"k": -1}}, ValueError, "degenerate must be a dict"),
        ({"degenerate": {"k": True}}, ValueError, "degenerate must be a dict"),
        ({"values": {"all": {}}}, ValueError, "without 'all', which the summary"),
        ({"values": {"k": [1.0]}}, TypeError, "must be a dict of lists of numbers"),
        ({"values": {"k": {"a": 1.0}}}, TypeError, "must be a dict of lists"),
        ({"values": {"k": {"a": ["1"]}}}, TypeError, "must be a dict of lists"),
        ({"details": {3: 1}}, TypeError, "Keys must be texts, got 3"),
        ({"details": {"a": {1, 2}}}, TypeError, "got a set"),
        ({"error": "no", "values": VALUES}, ValueError, "no values stand beside it"),
    ],
)
def test_what_is_no_line_is_refused(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"sample": "1", "image": "1", "method": "m", "seconds": 0.0, **changed}
    with pytest.raises(error, match=message):
        Line(**given)


@pytest.mark.parametrize("text", ["", "3", "{}", '{"sample": "1"', "[]", '"x"'])
def test_another_text_is_no_line(text: str) -> None:
    with pytest.raises(ValueError):
        Line.from_json(text)
    whole = json.loads(Line("1", "1", "m", 0).to_json())
    whole["values"] = {"k": 3}
    with pytest.raises(ValueError, match="must be a dict of lists"):
        Line.from_json(json.dumps(whole))
