"""The command line, ``captum-dexar``: one file per command.

Help and argument errors must appear instantly, so commands import slow modules only
when they run, after checking their arguments.
"""

import argparse
import os
from collections.abc import Sequence
from typing import NoReturn

from captum_dexar import __version__
from captum_dexar.cli import app, compare, demo, evaluate, explain, families, show
from captum_dexar.cli.console import printing, say
from captum_dexar.cli.interrupts import noticed_interrupts
from captum_dexar.cli.options import InputError
from captum_dexar.cli.terminal import terminal_text

COMMANDS = (demo, explain, show, compare, evaluate, app, families)
SUCCESS, FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments (sequence of str, optional): command-line arguments.
            Default: None, ``sys.argv[1:]``

    Returns:
        0 on success, 1 if explaining failed, 2 for bad input, 130 after Ctrl-C.
    """
    # Figures are only written to files.
    os.environ["MPLBACKEND"] = "Agg"
    with printing(), noticed_interrupts() as interrupts:
        options = _parser().parse_args(arguments)
        try:
            options.run(options)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts.came or isinstance(error, KeyboardInterrupt):
                say("captum-dexar: interrupted", error=True)
                return INTERRUPTED
            if isinstance(error, InputError):
                say(f"captum-dexar: {error}", error=True)
                return BAD_INPUT
            if isinstance(error, (RuntimeError, ValueError, TypeError, OSError)):
                say(f"captum-dexar: {type(error).__name__}: {error}", error=True)
                return FAILURE
            raise
        return SUCCESS


class _Parser(argparse.ArgumentParser):
    """Its errors, which quote arguments, print no control character of theirs."""

    def error(self, message: str) -> NoReturn:
        """See :class:`argparse.ArgumentParser`."""
        super().error(terminal_text(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
