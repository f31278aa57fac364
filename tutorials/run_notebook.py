"""Runs a notebook from top to bottom in a clean kernel, in a folder of its own.

``python run_notebook.py NOTEBOOK FOLDER`` fails if a cell does; with ``--write`` the
outputs are kept in the notebook.
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    notebook = nbformat.read(options.notebook, as_version=4)
    options.folder.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        coalesce_streams=True,  # how a kernel cuts its output is chance
        resources={"metadata": {"path": str(options.folder)}},
    )
    client.execute()
    if options.write:
        nbformat.write(notebook, options.notebook)


if __name__ == "__main__":
    main()
