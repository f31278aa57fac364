"""The commands' output: text, figures and tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from captum_dexar.result.result import VLMAttributionResult


def report(result: VLMAttributionResult, folder: Path) -> None:
    """Prints the words; writes figures, a table and the result to ``folder``."""
    from captum_dexar.visualization import token_table

    words = result.words()
    print(f"The model:  {result.answer}\n")
    print(
        token_table(
            [word.text for word in words],
            [word.weight for word in words],
            [word.log_prob for word in words],
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(result.plot_tokens(), folder / "tokens.png")
    save_figure(result.plot_sequence(), folder / "sequence.png")
    files = ["sequence.png", "tokens.csv", "result.dexar"]
    if result.layer_attr is not None and words:
        save_figure(result.plot_layers(), folder / "layers.png")
        files.insert(1, "layers.png")
    _write_tokens(result, folder / "tokens.csv")
    result.save(folder / "result.dexar")
    print(f"\nWhere each word comes from:  {folder / 'tokens.png'}")
    print(f"In the same folder:  {', '.join(files)}")


def verified(result: VLMAttributionResult) -> str:
    """What was recomputed by plain autograd, and how far it is from the result."""
    verification = result.verification
    assert verification is not None
    where = "all layers"
    if verification.layer is not None:
        where = f"layer {verification.layer}"
    token = result.output_tokens[verification.token]
    return (
        f"Verified:   token {verification.token} ({token!r}) in {where} by plain "
        f"autograd, relative error {verification.error:.2g}"
    )


def save_figure(plotted: Any, path: Path, dpi: int = 130) -> None:
    """Saves and closes the figure returned by a plot."""
    import matplotlib.pyplot as plt

    figure, _ = plotted
    figure.savefig(path, dpi=dpi)
    plt.close(figure)


def _write_tokens(result: VLMAttributionResult, path: Path) -> None:
    numbers = (result.token_weights, result.token_log_probs)
    rows = [
        [
            position,
            int(result.target_ids[position]),
            token,
            *(None if n is None else float(n[position]) for n in numbers),
        ]
        for position, token in enumerate(result.output_tokens)
    ]
    write_csv(path, ["position", "id", "token", "weight", "log_prob"], rows)


def write_csv(path: Path, heading: list[str], rows: list[list[Any]]) -> None:
    """Writes a table; None becomes an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows(rows)
