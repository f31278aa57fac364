"""The command line, ``captum-dexar``: one file per command.

Help and argument errors must appear instantly, so commands import slow modules only
when they run, after checking their arguments.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from captum_dexar import __version__
from captum_dexar.cli import app, compare, demo, evaluate, explain, families
from captum_dexar.cli.options import InputError

COMMANDS = (demo, explain, compare, evaluate, families, app)
SUCCESS, FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments (sequence of str, optional): command-line arguments.
            Default: None, ``sys.argv[1:]``

    Returns:
        0 on success, 1 if explaining failed, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    # Figures are only written to files.
    os.environ["MPLBACKEND"] = "Agg"
    try:
        options.run(options)
    except InputError as error:
        print(f"captum-dexar: {error}", file=sys.stderr)
        return BAD_INPUT
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        print(f"captum-dexar: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("captum-dexar: interrupted", file=sys.stderr)
        return INTERRUPTED
    return SUCCESS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-dexar",
        description="Which part of the picture made the model say that word?",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
