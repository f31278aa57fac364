"""The table of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from captum_dexar.result.result import VLMAttributionResult

_COLUMNS = {
    "method": "method",
    "seconds": "seconds",
    "seconds_per_word": "seconds per word",
    "times_the_first": "times the first",
    "agreement": "agreement with the first",
    "negative_share": "negative share",
    "mean_weight": "mean weight",
}


def rows_of(
    results: Mapping[str, VLMAttributionResult], seconds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One row per method; see :meth:`Comparison.rows`."""
    first = next(iter(results.values()))
    base = next(iter(seconds.values()))
    num_words = max(1, len(first.words()))
    return [
        {
            "method": name,
            "seconds": seconds[name],
            "seconds_per_word": seconds[name] / num_words,
            "times_the_first": seconds[name] / base if base else None,
            "agreement": _agreement(first, result),
            "negative_share": _negative_share(result),
            "mean_weight": _mean_weight(result),
        }
        for name, result in results.items()
    ]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of the rows, without columns that are None everywhere."""
    kept = [key for key in _COLUMNS if any(row[key] is not None for row in rows)]
    lines = [
        "| " + " | ".join(_COLUMNS[key] for key in kept) + " |",
        "|" + "---|" * len(kept),
    ]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row[key]) for key in kept) + " |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in seconds or milliseconds, as text."""
    if seconds >= 1:
        return f"{_digits(seconds)} s"
    return f"{_digits(seconds * 1000)} ms"


def _agreement(
    first: VLMAttributionResult, other: VLMAttributionResult
) -> float | None:
    """Mean correlation of the words' maps; words with a constant map are left out."""
    if first is other:
        return None
    assert first.token_attr is not None and other.token_attr is not None
    if first.token_attr.shape != other.token_attr.shape:
        return None
    correlations = []
    for word in first.words():
        tokens = list(word.tokens)
        pair = [r.token_attr[tokens].double().sum(0) for r in (first, other)]
        centred = [one - one.mean() for one in pair]
        sizes = [float(one.norm()) for one in centred]
        if all(size > 1e-9 * float(one.norm()) for size, one in zip(sizes, pair)):
            correlations.append(float(centred[0] @ centred[1]) / (sizes[0] * sizes[1]))
    return sum(correlations) / len(correlations) if correlations else None


def _negative_share(result: VLMAttributionResult) -> float | None:
    if not result.is_signed:
        return None
    assert result.token_attr is not None
    attributions = result.token_attr[~result.special_tokens].double()
    total = float(attributions.abs().sum())
    return float((-attributions).relu().sum()) / total if total else 0.0


def _mean_weight(result: VLMAttributionResult) -> float | None:
    if result.rival_ids is not None:
        # Shares, which can't be compared with the weights of equation (6).
        return None
    weights = [word.weight for word in result.words() if word.weight is not None]
    return float(torch.tensor(weights).mean()) if weights else None


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return "-" if value is None else _digits(value)


def _digits(value: float) -> str:
    """Three significant digits without exponent notation."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return f"{value:.6f}" if "e" in text else text
