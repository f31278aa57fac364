"""``captum-dexar evaluate``: measures the bundled model and methods on it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captum_dexar.cli.options import add_methods, check_seed, method_names, positive
from captum_dexar.comparison.methods import EVALUATED, named_methods

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure the bundled model, and methods that explain it",
        description="On held-out scenes of the bundled world: how often the bundled "
        "model is exactly right, and how well the maps of colour and shape words find "
        "the object that they describe, with chance for comparison.",
    )
    parser.add_argument(
        "--scenes",
        type=positive,
        default=500,
        metavar="N",
        help="number of scenes (default: 500)",
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        metavar="SEED",
        help="seed of the first scene (default: 0)",
    )
    add_methods(parser, EVALUATED)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    names = method_names(options.methods)
    check_seed("--first-seed", options.first_seed)
    from captum_dexar.evaluation import evaluate, ShapesDataset
    from captum_dexar.shapes import load_vlm, measure_accuracy

    seeds = range(options.first_seed, options.first_seed + options.scenes)
    model, processor = load_vlm()
    accuracy = measure_accuracy(model, processor, seeds, show_progress=True)
    print("\n| answers | exactly right | asked | share |\n|---|---|---|---|")
    for kind, value in accuracy.items():
        print(f"| {kind} | {value.right} | {value.asked} | {value.share:.3f} |")
    evaluation = evaluate(
        named_methods(names, model),
        ShapesDataset(seeds, processor, model),
        processor=processor,
        seed=options.first_seed,
        progress=True,
    )
    counts = evaluation.num_regions
    print(f"\nWords: {counts['colour']} of colour, {counts['shape']} of shape.\n")
    print(evaluation.table())
