"""``captum-dexar explain``: explains a model's answer about an image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captum_dexar.cli.options import (
    add_layers,
    add_model,
    add_out,
    explained,
    generation_arguments,
    layer_numbers,
    loaded_input,
)
from captum_dexar.cli.reports import report, verified

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "explain",
        help="explain a model's answer to a question about an image",
        description="Loads a Hugging Face vision-language model, generates an answer "
        "(or uses the given one), and explains every token with DEX-AR. Only "
        "safetensors weights are loaded, and remote code is never executed.",
    )
    add_model(parser, required=True)
    parser.add_argument(
        "--attention-power",
        type=float,
        default=0.0,
        metavar="P",
        help="explain by gradient x attention^P: 0 as in the paper (the default); 0.5 "
        "and 1 show which patches were read",
    )
    add_layers(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="recompute a random token in a random layer by plain autograd, and print "
        "the error",
    )
    add_out(parser, "captum-dexar-output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    gen_args = generation_arguments(options)
    layer_numbers(options.layers)
    model, processor, inp = loaded_input(options)
    result = explained(
        model,
        processor,
        inp,
        options.layers,
        target=options.target,
        gen_args=gen_args,
        attention_power=options.attention_power,
        verify=options.verify,
    )
    print()
    if options.verify:
        print(f"{verified(result)}\n")
    report(result, options.out)
