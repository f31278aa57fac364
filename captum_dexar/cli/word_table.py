"""An explained answer as a text table."""

from collections.abc import Sequence

from captum_dexar.cli.terminal import bar, cells, terminal_label

_BAR_CELLS = 20
_LONGEST = 40


def token_table(
    texts: Sequence[str],
    weights: Sequence[float | None],
    log_probs: Sequence[float | None],
    encoding: str = "utf-8",
    colour: bool = False,
) -> str:
    """One line per word: its text, its weight with a bar, and its log-probability.

    Args:
        texts (sequence of str): the words; long ones are cut
        weights (sequence of float or None): their weights, not negative
        log_probs (sequence of float or None): their natural log-probabilities
        encoding (str, optional): of the terminal or file. Default: "utf-8"
        colour (bool, optional): whether bars are coloured, by codes that terminals
            understand. Default: False
    """
    words = [terminal_label(text, _LONGEST, encoding) for text in texts]
    width = max([len("word"), *map(cells, words)])
    largest = max((weight or 0.0 for weight in weights), default=0.0)
    lines = [f"{'word':<{width}}  {'weight':>9}  {'':<{_BAR_CELLS}}  {'log-prob':>8}"]
    for word, weight, log_prob in zip(words, weights, log_probs):
        padding = " " * (width - cells(word))
        share = (weight or 0.0) / largest if largest else 0.0
        shown_weight = "-" if weight is None else f"{weight:.4g}"
        shown_log_prob = "-" if log_prob is None else f"{round(log_prob, 3) + 0.0:.3f}"
        lines.append(
            f"{word}{padding}  {shown_weight:>9}  "
            f"{bar(share, _BAR_CELLS, encoding, colour)}  {shown_log_prob:>8}"
        )
    return "\n".join(lines)
