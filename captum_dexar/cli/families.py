"""``captum-dexar families``: which models are supported."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "families",
        help="list the families of models that are supported",
        description="The families of vision-language models that are supported, and "
        "what is checked for each. For all of them attention gradients are checked "
        "against plain autograd.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs it."""
    from captum_dexar.families import families_table

    print(families_table())
