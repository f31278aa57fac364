"""``captum-dexar demo``: the bundled model on a drawn scene."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captum_dexar.cli.console import say
from captum_dexar.cli.options import (
    add_layers,
    add_out,
    attribution,
    check_out,
    check_seed,
    drawn_input,
    layer_numbers,
)
from captum_dexar.cli.reports import add_result, Outputs, report, save_figure, TITLES

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands

RIVALS = 4
RIVALS_TITLE = (
    f"Why each word rather than each of the {RIVALS} that the model would choose next "
    "(an extension of the paper)"
)


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
    check_out(options.out)
    check_seed("--seed", options.seed)
    from captum_dexar.shapes import load_vlm

    model, processor = load_vlm()
    scene, inp = drawn_input(options.seed, model, processor)
    dexar = attribution(model, processor, options.layers)
    result = dexar.attribute(inp, progress=True)
    outputs = Outputs(options.out)
    add_result(result, outputs)
    differences = dexar.attribute(inp, result.target_ids, rivals=RIVALS)
    outputs.add("rivals.dexar", differences.save)
    say(f"\nThe scene:  {scene.caption}")
    report(result, outputs)
    outputs.add(
        "tokens_rivals.png", lambda path: save_figure(differences.plot_tokens(), path)
    )
    outputs.finish({**TITLES, "tokens_rivals.png": RIVALS_TITLE})
