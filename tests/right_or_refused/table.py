"""The table as Markdown: a row for each argument, a column for each way."""

from collections.abc import Iterable, Iterator

from tests.right_or_refused.argument import Argument
from tests.right_or_refused.cells import Outcome, outcome
from tests.right_or_refused.setting import Setting
from tests.right_or_refused.ways import Way, WAYS

LONGEST = 100


def rows(
    setting: Setting, arguments: Iterable[Argument], ways: Iterable[Way] = WAYS
) -> Iterator[str]:
    """The lines of the table, each as soon as it is known."""
    ways = list(ways)
    yield _row("argument", [way.name for way in ways])
    yield _row("---", ["---"] * len(ways))
    for argument in arguments:
        yield _row(
            argument.name, [_text(outcome(setting, argument, way)) for way in ways]
        )


def _text(of_cell: Outcome) -> str:
    text = str(of_cell).replace("|", "\\|")
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"**{text}**" if of_cell.kind == "wrong" else text


def _row(first: str, cells: list[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"
