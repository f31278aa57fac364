"""The tables of the README, from what is tested."""

from collections.abc import Iterator

from tests.big_models.adapters import ADAPTERS, VARIANTS
from tests.big_models.quantisations import Quantisation, QUANTISATIONS, TORCHAO

WORDS = {
    "explained": "explained",
    "refused": "refused by name",
    "generated answers": (
        'generated answers explained; given ones by `engine="autograd"`, else refused'
    ),
}


def adapters_table() -> str:
    """Methods of peft and variants of them."""
    rows = [
        (name, WORDS[adapter.outcome], adapter.note)
        for name, adapter in {**ADAPTERS, **VARIANTS}.items()
    ]
    return _table(("method", "", ""), sorted(rows))


def quantisations_table() -> str:
    """Kinds of quantised weights that transformers lists."""
    return _table(("kind", ""), _quantised(QUANTISATIONS))


def torchao_table() -> str:
    """Configs of torchao."""
    return _table(("config", ""), _quantised(TORCHAO))


TABLES = {
    "adapters": adapters_table,
    "quantisations": quantisations_table,
    "torchao": torchao_table,
}


def _quantised(kinds: dict[str, Quantisation]) -> Iterator[tuple[str, str]]:
    for name, kind in kinds.items():
        if kind.outcome == "untried":
            yield name, f"untried: needs {kind.needs}"
        else:
            yield name, WORDS.get(kind.outcome, kind.outcome)


def _table(
    head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]
) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)
