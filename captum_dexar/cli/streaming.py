"""Printing an answer while it is generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from captum_dexar.cli.console import encoding_of, is_terminal, shows_colour, write
from captum_dexar.cli.terminal import terminal_label, terminal_text, tinted

if TYPE_CHECKING:
    from captum_dexar.result.result import VLMAttributionResult
    from captum_dexar.result.words import Word

    Parts = Sequence[VLMAttributionResult]


def streamed_result(steps: Iterator[VLMAttributionResult]) -> VLMAttributionResult:
    """Prints words as they are generated; the result of the whole answer.

    In a terminal the text flows, each token tinted by its weight relative to the
    largest so far. Elsewhere each word is a line, with a tab and its weight.
    """
    from captum_dexar.result.joined import joined

    parts: list[VLMAttributionResult] = []
    printed: _Text | _Lines = _Text() if is_terminal() else _Lines()
    for part in steps:
        parts.append(part)
        printed.add(parts)
    printed.end(parts)
    return joined(parts)


class _Text:
    """The text of the answer, token by token."""

    def __init__(self) -> None:
        self._largest = 0.0
        self._encoding = encoding_of()
        self._has_colour = shows_colour()

    def add(self, parts: Parts) -> None:
        """Prints the last of the parts."""
        text = terminal_text(parts[-1].answer, self._encoding)
        weights = parts[-1].token_weights
        if self._has_colour and weights is not None:
            weight = float(weights[0])
            self._largest = max(self._largest, weight)
            word = text.strip()
            # Blanks between words stay as they are, and so do the ends of lines.
            if word and "\n" not in word:
                share = weight / self._largest if self._largest else 0.0
                text = text.replace(word, tinted(word, share))
        write(text, flush=True)

    def end(self, parts: Parts) -> None:
        """Prints what has been waiting for more."""
        write("\n", flush=True)


class _Lines:
    """A line per word with its weight, as soon as the word is complete."""

    def __init__(self) -> None:
        self._num_printed = 0
        self._encoding = encoding_of()

    def add(self, parts: Parts) -> None:
        """Prints the words that the last of the parts has completed."""
        # Blanks join the word before or after them.
        self._print(parts, waiting=2)

    def end(self, parts: Parts) -> None:
        """Prints what has been waiting for more."""
        self._print(parts, waiting=0)

    def _print(self, parts: Parts, waiting: int) -> None:
        words = _words(parts)
        for word in words[self._num_printed : max(0, len(words) - waiting)]:
            text = terminal_label(word.text, encoding=self._encoding)
            weight = "" if word.weight is None else f"{word.weight:.6g}"
            write(f"{text}\t{weight}\n", flush=True)
            self._num_printed += 1


def _words(parts: Parts) -> list[Word]:
    """The words of the answer so far; the last ones may still grow."""
    import torch
    from captum_dexar.result.words import word_groups, words_of

    if not parts:
        return []
    tokens = [token for part in parts for token in part.output_tokens]
    starts = torch.cat([part.word_starts for part in parts])
    special = torch.cat([part.special_tokens for part in parts])
    known = [part.token_weights for part in parts if part.token_weights is not None]
    weights = torch.cat(known) if len(known) == len(parts) else None
    groups = word_groups(tokens, starts, special, keep_special=False)
    return words_of(tokens, groups, weights, None)
