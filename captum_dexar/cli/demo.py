"""``captum-dexar demo``: the bundled model on a drawn scene."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captum_dexar.cli.options import (
    add_layers,
    add_out,
    bundled_input,
    explained,
    layer_numbers,
)
from captum_dexar.cli.reports import report, save_figure

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands

# Between the paper's gradient (0) and gradient x attention (1).
READ_POWER = 0.5


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "demo",
        help="explain the bundled model's description of a drawn scene, offline",
        description="Draws a scene, generates a description with the bundled "
        "vision-language model, and explains every word with DEX-AR. Works offline.",
    )
    parser.add_argument(
        "--seed", type=int, default=3, help="seed of the scene (default: 3)"
    )
    add_layers(parser)
    add_out(parser, "captum-dexar-demo")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    layer_numbers(options.layers)
    model, processor, scene, inp = bundled_input(options.seed)
    result = explained(model, processor, inp, options.layers)
    read = explained(
        model,
        processor,
        inp,
        options.layers,
        target=result.target_ids,
        attention_power=READ_POWER,
    )
    print(f"\nThe scene:  {scene.caption}")
    report(result, options.out)
    save_figure(read.plot_tokens(), options.out / "tokens_read.png")
    print(
        f"Which patches were read, gradient x attention^{READ_POWER} (an extension of "
        f"the paper):  {options.out / 'tokens_read.png'}"
    )
