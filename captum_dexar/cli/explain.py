"""``captum-dexar explain``: explains a model's answer about an image."""

from __future__ import annotations

import argparse
from typing import Any, TYPE_CHECKING

from captum_dexar.cli.console import is_terminal, say
from captum_dexar.cli.loading import loaded_input
from captum_dexar.cli.options import (
    add_layers,
    add_model,
    add_out,
    attribution,
    check_out,
    generation_arguments,
    InputError,
    layer_numbers,
    positive,
)
from captum_dexar.cli.reports import (
    add_result,
    add_views,
    Outputs,
    report,
    TITLES,
    verified,
)
from captum_dexar.cli.streaming import streamed_result

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "explain",
        help="explain a model's answer to a question about an image",
        description="Loads a Hugging Face vision-language model, or the bundled one, "
        "generates an answer (or uses the given one), and explains every token with "
        "DEX-AR. Only safetensors weights are loaded, and remote code is never "
        "executed.",
    )
    add_model(parser, image_required=True)
    parser.add_argument(
        "--attention-power",
        type=float,
        metavar="P",
        help="explain by gradient x attention^P: 0 as in the paper (the default); 0.5 "
        "and 1 show which patches were read (with --rivals, the default is 0.75)",
    )
    parser.add_argument(
        "--rivals",
        type=positive,
        metavar="N",
        help="explain why each token rather than each of the N that the model would "
        "choose next, by gradient x attention^0.75; an extension of the paper, tried "
        "with 4",
    )
    add_layers(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="recompute a random token in a random layer by plain autograd, and print "
        "the error",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="print each word as it is generated, tinted by its weight relative to the "
        "largest so far; where the output is not a terminal, only a line per word, "
        "with a tab and its weight",
    )
    parser.add_argument(
        "--every",
        type=positive,
        metavar="N",
        help="with --stream, explain N tokens at a time, which takes less time "
        "(default: 1)",
    )
    add_out(parser, "captum-dexar-output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    gen_args = generation_arguments(options)
    layer_numbers(options.layers)
    _check_stream(options)
    check_out(options.out)
    model, processor, inp = loaded_input(options)
    dexar = attribution(model, processor, options.layers)
    arguments: dict[str, Any] = {
        "attention_power": options.attention_power,
        "rivals": options.rivals or 0,
    }
    if options.stream:
        steps = dexar.stream(inp, gen_args, every=options.every or 1, **arguments)
        result = streamed_result(steps)
    else:
        result = dexar.attribute(
            inp,
            target=options.target,
            gen_args=gen_args,
            progress=options.target is None,
            verify=options.verify,
            **arguments,
        )
    outputs = Outputs(options.out)
    add_result(result, outputs)
    if options.stream and not is_terminal():
        # What was printed are lines for other programs.
        add_views(result, outputs)
        outputs.finish(TITLES, error=True)
        return
    say()
    if options.verify:
        say(f"{verified(result)}\n")
    report(result, outputs)
    outputs.finish(TITLES)


def _check_stream(options: argparse.Namespace) -> None:
    if options.every is not None and not options.stream:
        raise InputError("--every is for --stream, which is not given.")
    if options.stream and options.target is not None:
        raise InputError(
            "--stream is for generating an answer, but --target gives one."
        )
    if options.stream and options.verify:
        raise InputError("--verify explains an answer as a whole. Leave --stream out.")
