"""The supported families as a table, for the command line and the README."""

from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.registry import known_families

HEADINGS = (
    "family",
    "`model_type`",
    "places on the image, checked",
    "images a prompt",
    "long answers run on",
)


def families_table() -> str:
    """A Markdown table of the families, sorted by name.

    Attention gradients are checked for all of them in the same way, closed form against
    plain autograd; the columns say in what they differ.
    """
    families = sorted(known_families(), key=lambda adapter: adapter.name.lower())
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(_row, families)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(adapter: FamilyAdapter) -> tuple[str, ...]:
    return (
        adapter.name,
        ", ".join(adapter.model_types),
        adapter.boxes_checked,
        "several" if adapter.takes_several_images else "one",
        adapter.steps_run_on,
    )
