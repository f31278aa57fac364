"""``captum-dexar show``: page, figures and tables of a saved result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from captum_dexar.cli.options import check_out, InputError
from captum_dexar.cli.reports import Outputs, report, TITLES

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "show",
        help="make page and figures of a saved result, without the model",
        description="Reads a result file, as explain, compare, demo and "
        "VLMAttributionResult.save write it, prints the words with their weights, and "
        "makes the page, the figures and the table of tokens. No model is loaded.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the result file")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for page, figures and table (default: the name of the file, with "
        "-shown in the place of .dexar)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    path: Path = options.file
    if path.is_dir():
        held = sorted(one.name for one in path.glob("*.dexar"))
        which = f": it holds {', '.join(held)}" if held else ", such as result.dexar"
        raise InputError(f"{path} is a folder. Name a result file in it{which}.")
    if not path.is_file():
        raise InputError(f"there is no result file at {path}.")
    from captum_dexar.visualization.file_names import file_name

    folder = options.out or Path(f"{file_name(path.stem)}-shown")
    check_out(folder)
    from captum_dexar.result.result import VLMAttributionResult

    try:
        result = VLMAttributionResult.load(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    outputs = Outputs(folder)
    report(result, outputs)
    outputs.finish(TITLES)
