"""Words printed while they are generated."""

from typing import Any

import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.cli.streaming import streamed_result
from captum_dexar.cli.terminal import tinted
from tests.cli.terminals import a_file, a_terminal
from tests.result.test_result import make_result

TEXTS = ["a", " vio", "let", " \x1b[31m", "\n.", ""]
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 2.0, 0.0]
STARTS = [True, True, False, True, True, True]


def parts() -> list[VLMAttributionResult]:
    unknown = ("placeless_attr", "token_log_probs", "head_weights", "layer_attr")
    made = []
    for place, text in enumerate(TEXTS):
        fields: dict[str, Any] = dict.fromkeys((*unknown, "layer_indices"))
        is_end = place == len(TEXTS) - 1
        made.append(
            make_result(
                **fields,
                output_tokens=["</s>" if is_end else text.strip()],
                answer=text,
                target_ids=torch.tensor([place]),
                token_attr=torch.ones(1, 8),
                seq_attr=torch.ones(8),
                token_weights=torch.tensor(WEIGHTS[place : place + 1]),
                special_tokens=torch.tensor([is_end]),
                word_starts=torch.tensor([STARTS[place]]),
            )
        )
    return made


def test_a_text_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token by its share of the largest weight so far."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with a_terminal(monkeypatch) as printed:
        result = streamed_result(iter(parts()))
    assert result.output_tokens == [*(text.strip() for text in TEXTS[:-1]), "</s>"]
    shares = [1.0, 1.0, 0.5, 0.0, 1.0]
    words = [tinted(text, share) for text, share in zip(["a", "vio", "let"], shares)]
    expected = f"{words[0]} {words[1]}{words[2]} \\x1b[31m\n{tinted('.', 1.0)}\n"
    assert printed.text == expected


def test_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with a_terminal(monkeypatch, "ascii") as printed:
        streamed_result(iter(parts()))
    assert printed.text == "a violet \\x1b[31m\n.\n"


def test_lines_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_file(monkeypatch) as printed:
        streamed_result(iter(parts()))
    lines = ["a\t0.5", "violet\t2", "\\x1b[31m\t0", ".\t2"]
    assert printed.text.splitlines() == lines
