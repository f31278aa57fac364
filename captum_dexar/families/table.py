"""The supported families as a table, for the command line and README.md."""

from captum_dexar.compatibility import missing_model
from captum_dexar.families.base import FamilyAdapter
from captum_dexar.families.registry import known_families

HEADINGS = (
    "family",
    "`model_type`",
    "processor",
    "gradients, largest error",
    "places of image tokens, checked",
    "batches",
    "images per prompt",
    "long answers are run on",
)


def families_table() -> str:
    """A Markdown table of the families, sorted by name, with what was checked.

    Model types that the installed version of transformers does not have are listed
    below the table.
    """
    families = sorted(known_families(), key=lambda adapter: adapter.name.lower())
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(_row, families)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([table, *_missing(families)])


def _row(adapter: FamilyAdapter) -> tuple[str, ...]:
    return (
        adapter.name,
        ", ".join(adapter.model_types),
        ", ".join((*adapter.processor_types, *adapter.shared_processors)),
        f"{adapter.largest_error:.0e}".replace("e-0", "e-"),
        adapter.boxes_checked,
        "yes" if adapter.can_be_batched else "no",
        "several" if adapter.takes_several_images else "one",
        adapter.steps_run_on,
    )


def _missing(families: list[FamilyAdapter]) -> list[str]:
    """A sentence on what the installed version of transformers lacks, if anything."""
    from transformers import __version__, CONFIG_MAPPING

    types = (kind for adapter in families for kind in adapter.model_types)
    missing = ", ".join(
        kind for kind in types if kind not in CONFIG_MAPPING or missing_model(kind)
    )
    if not missing:
        return []
    return [f"Not in the installed transformers {__version__}: {missing}."]
