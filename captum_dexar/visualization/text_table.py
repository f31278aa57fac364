"""An explained answer as a plain text table."""

from collections.abc import Sequence

from captum_dexar.visualization.text import columns, label

_BAR_CELLS = 20


def token_table(
    texts: Sequence[str],
    weights: Sequence[float | None],
    log_probs: Sequence[float | None],
) -> str:
    """One line per word: its text, its weight with a bar, and its log-probability.

    Args:
        texts (sequence of str): the words
        weights (sequence of float or None): their weights, not negative
        log_probs (sequence of float or None): their natural log-probabilities
    """
    words = [label(text) for text in texts]
    width = max([len("word"), *map(columns, words)])
    largest = max((weight or 0.0 for weight in weights), default=0.0)
    lines = [f"{'word':<{width}}  {'weight':>9}  {'':<{_BAR_CELLS}}  {'log-prob':>8}"]
    for word, weight, log_prob in zip(words, weights, log_probs):
        padding = " " * (width - columns(word))
        filled = round(_BAR_CELLS * (weight or 0.0) / largest) if largest else 0
        shown_weight = "-" if weight is None else f"{weight:.4g}"
        shown_log_prob = "-" if log_prob is None else f"{log_prob:.3f}"
        lines.append(
            f"{word}{padding}  {shown_weight:>9}  {'█' * filled:<{_BAR_CELLS}}  "
            f"{shown_log_prob:>8}"
        )
    return "\n".join(lines)
