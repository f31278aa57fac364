"""``captum-dexar families``: lists the supported model families."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captum_dexar.cli.console import say

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "families",
        help="list the supported model families",
        description="Lists the supported families of vision-language models and what "
        "is tested for each. Attention gradients of all families are tested against "
        "autograd.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    from captum_dexar.families import families_table

    say(families_table())
