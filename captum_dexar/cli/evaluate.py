"""``captum-dexar evaluate``: the bundled model and DEX-AR on it, in numbers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captum_dexar.cli.options import positive

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure the bundled model and DEX-AR on it",
        description="On held-out scenes of the bundled world: how often the bundled "
        "model is exactly right, and how well the maps of colour and shape words find "
        "the object that they speak of, with chance beside it.",
    )
    parser.add_argument("--scenes", type=positive, default=500, metavar="N")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs it."""
    from captum_dexar.evaluation import evaluate_on_shapes, localization_table
    from captum_dexar.shapes import load_vlm, measure_accuracy

    seeds = range(options.first_seed, options.first_seed + options.scenes)
    model, processor = load_vlm()
    accuracy = measure_accuracy(model, processor, seeds, show_progress=True)
    print("\n| answers | exactly right | asked | share |\n|---|---|---|---|")
    for kind, value in accuracy.items():
        print(f"| {kind} | {value.right} | {value.asked} | {value.share:.3f} |")
    scores = evaluate_on_shapes(model, processor, seeds, progress=True)
    counts = scores[0].num_words
    print(f"\nWords: {counts['colour']} of colour, {counts['shape']} of shape.\n")
    print(localization_table(scores))
