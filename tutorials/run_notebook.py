"""Runs a notebook from top to bottom in a clean kernel, in a folder of its own.

``python run_notebook.py NOTEBOOK FOLDER`` fails if a cell does, or if a number that is
printed is not the one that is stored in the notebook; with ``--write`` the new outputs
are kept in the notebook instead.

What is printed, and values without a picture or a page, are compared. Numbers may
differ by 2 % or 0.02, whichever is more; all other text has to be the same. Cells whose
outputs are times, versions or the like have the tag ``varies`` and are not compared.
"""

import argparse
import copy
import math
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

RELATIVE, ABSOLUTE = 0.02, 0.02
VARIES = "varies"
# A number, but not a part of a name (float32) or of a version (2.6.0).
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?!\.?\w)"
)
_MISSING = "(no line)"


def same_line(stored: str, fresh: str) -> bool:
    """Whether two lines have the same words, and the same numbers within tolerance.

    White space does not count, because it depends on how wide the numbers are.
    """
    words = [_NUMBER.sub(" \0 ", line).split() for line in (stored, fresh)]
    pairs = zip(_NUMBER.findall(stored), _NUMBER.findall(fresh))
    return words[0] == words[1] and all(
        math.isclose(float(a), float(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        for a, b in pairs
    )


def text_lines(cell: Any) -> list[str]:
    """The lines that a code cell printed, and its value if that is plain text."""
    text = ""
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            text += output.text
        elif set(output.get("data", ())) == {"text/plain"}:
            text += output.data["text/plain"] + "\n"
    return text.splitlines()


def changes(stored: Any, fresh: Any) -> Iterator[str]:
    """What differs between a notebook's stored outputs and those of a new run.

    Args:
        stored, fresh (NotebookNode): the same notebook with both outputs

    Yields:
        *str*: a cell, its first line of code, and both lines
    """
    for number, (old, new) in enumerate(zip(stored.cells, fresh.cells)):
        if old.cell_type != "code" or VARIES in old.metadata.get("tags", ()):
            continue
        pairs = zip_longest(text_lines(old), text_lines(new), fillvalue=_MISSING)
        for before, now in pairs:
            if not same_line(before, now):
                first_line = old.source.partition("\n")[0]
                lines = f"  stored: {before}\n  fresh:  {now}"
                yield f"cell {number}: {first_line}\n{lines}"


def run(notebook: Any, folder: Path) -> Any:
    """A copy of the notebook with the outputs of a run in ``folder``.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    fresh = copy.deepcopy(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        fresh,
        timeout=600,
        iopub_timeout=120,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return fresh


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="keep the new outputs")
    options = parser.parse_args()
    stored = nbformat.read(options.notebook, as_version=4)
    fresh = run(stored, options.folder)
    found = list(changes(stored, fresh))
    if options.write:
        nbformat.write(fresh, options.notebook)
        print(f"{options.notebook.name}: {len(found)} lines of output are new")
    elif found:
        sys.exit(
            f"{options.notebook.name} no longer prints what is stored in it:\n\n"
            + "\n\n".join(found)
            + f"\n\nNumbers may differ by {RELATIVE:.0%} or {ABSOLUTE}. If the change "
            "is meant, run with --write and mend the text around these cells. Tag a "
            f"cell {VARIES!r} whose outputs are times or versions."
        )


if __name__ == "__main__":
    main()
