"""What commands write about a result: its file, a page, figures and tables."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TYPE_CHECKING

from captum_dexar.cli.console import encoding_of, say, shows_colour, write
from captum_dexar.cli.word_table import token_table

if TYPE_CHECKING:
    from captum_dexar.result.result import VLMAttributionResult

RESULT = "result.dexar"
# What the files to look at first show.
TITLES = {
    "page.html": "To read with a mouse",
    "tokens.png": "Where each word comes from",
}
# Spreadsheets take a cell for a formula that begins with one of these.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_DPI = 130
# Half the time of Pillow's own level, and a size within a few per cent of its.
_PNG = {"compress_level": 4}


class Outputs:
    """Files written to a folder one after the other.

    One that can't be written does not keep the others from being written.

    Args:
        folder (Path): the folder, which is made
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.written: list[str] = []
        self._failures: list[tuple[str, Exception]] = []

    def add(self, name: str, write_to: Callable[[Path], object]) -> None:
        """Writes a file; a failure is told by :meth:`finish`.

        Args:
            name (str): of the file
            write_to (Callable): writes it, to the path that it is given
        """
        from captum_dexar.result.whole_file import draft_of

        try:
            with draft_of(self.folder / name) as draft:
                write_to(draft)
        except Exception as error:  # drawing may raise anything
            self._failures.append((name, error))
        else:
            self.written.append(name)

    def finish(self, titles: Mapping[str, str], error: bool = False) -> None:
        """Says what was written.

        Args:
            titles (Mapping): what the most important files show, by their names
            error (bool, optional): says it on standard error. Default: False

        Raises:
            RuntimeError: a file could not be written.
        """
        lines = [
            f"{title}:  {self.folder / name}"
            for name, title in titles.items()
            if name in self.written
        ]
        others = [name for name in self.written if name not in titles]
        lines += [f"In the same folder:  {', '.join(others)}"]
        say("\n" + "\n".join(lines), error=error)
        if self._failures:
            name, failure = self._failures[0]
            names = ", ".join(one for one, _ in self._failures)
            raise RuntimeError(
                f"{names} could not be written ({name}: {type(failure).__name__}: "
                f"{failure}). The rest is in {self.folder}."
            ) from failure


def report(result: VLMAttributionResult, outputs: Outputs) -> None:
    """Prints the words; writes table, page and figures."""
    say_question(result)
    say(f"The model:  {result.answer}\n")
    say_words(result)
    add_views(result, outputs)


def say_question(result: VLMAttributionResult) -> None:
    """Prints what the model was asked, if that is known."""
    if result.question:
        say(f"The question:  {result.question}")


def say_words(result: VLMAttributionResult) -> None:
    """Prints the words with their weights, as bars."""
    words = result.words()
    table = token_table(
        [word.text for word in words],
        [word.weight for word in words],
        [word.log_prob for word in words],
        encoding_of(),
        shows_colour(),
    )
    write(f"{table}\n", flush=True)


def add_result(result: VLMAttributionResult, outputs: Outputs) -> None:
    """Writes the result file, which all else can be made from."""
    outputs.add(RESULT, result.save)


def add_views(result: VLMAttributionResult, outputs: Outputs) -> None:
    """Writes all that shows a result: a table of tokens, a page and figures."""
    outputs.add("tokens.csv", lambda path: _write_tokens(result, path))
    outputs.add("page.html", lambda path: write_page(result, path))
    if not result.images or not result.layout.is_located:
        say("No figures: the image, or the places of its tokens, are not known.")
        return
    for image in range(len(result.images)):
        _add_figures(result, image, outputs)
    if len(result.images) == 1 and result.layer_attr is not None and result.words():
        outputs.add("layers.png", lambda path: save_figure(result.plot_layers(), path))


def _add_figures(result: VLMAttributionResult, image: int, outputs: Outputs) -> None:
    """The figures of one of the images."""
    ending = f"-{image + 1}" if image else ""
    outputs.add(
        f"tokens{ending}.png",
        lambda path: save_figure(result.plot_tokens(image=image), path),
    )
    outputs.add(
        f"sequence{ending}.png",
        lambda path: save_figure(result.plot_sequence(image=image), path),
    )


def write_page(shown: Any, path: Path) -> None:
    """Writes the page of a result or a comparison."""
    path.write_text(shown.to_html(), encoding="utf-8", newline="")


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


def save_figure(plotted: Any, path: Path, dpi: int = _DPI) -> None:
    """Saves and closes the figure returned by a plot."""
    import matplotlib.pyplot as plt

    figure, _ = plotted
    try:
        figure.savefig(path, dpi=dpi, pil_kwargs=_PNG)
    finally:
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
    heading = ["position", "id", "token", "weight", "log_prob"]
    if result.rival_tokens is not None:
        heading.append("rather_than")
        rows = [
            [*row, " | ".join(rivals)] for row, rivals in zip(rows, result.rival_tokens)
        ]
    write_csv(path, heading, rows)


def write_csv(path: Path, heading: list[str], rows: list[list[Any]]) -> None:
    """Writes a table that is inert in spreadsheets; None becomes an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows([map(_cell, row) for row in rows])


def _cell(value: Any) -> Any:
    """A text with a quotation mark where a formula would begin, and with control
    characters other than line ends and tabs as their escape sequences."""
    if not isinstance(value, str):
        return value
    if value.lstrip(" ").startswith(_FORMULA):
        value = f"'{value}"
    return "".join(
        (
            one.encode("unicode_escape").decode()
            if unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\r\t"
            else one
        )
        for one in value
    )
