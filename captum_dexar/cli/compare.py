"""``captum-dexar compare``: several methods on one answer, with run times."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TYPE_CHECKING

from captum_dexar.cli.console import say
from captum_dexar.cli.loading import loaded_input, loaded_model
from captum_dexar.cli.options import (
    add_methods,
    add_model,
    add_out,
    check_out,
    check_seed,
    drawn_input,
    generation_arguments,
    InputError,
    method_names,
    positive,
)
from captum_dexar.cli.reports import (
    Outputs,
    save_figure,
    say_question,
    say_words,
    write_csv,
    write_page,
)
from captum_dexar.comparison.methods import COMPARED, named_methods

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands
    from captum_dexar.comparison.comparison import Comparison
    from torch import nn

_DPI = 200
DEFAULT_SEED = 3
TITLES = {
    "page.html": "To read with a mouse",
    "compare.png": "The maps, side by side",
}


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "compare",
        help="explain one answer with several methods, side by side",
        description="Explains one answer with several methods: a figure with one row "
        "per method and one column per word, and a table with their run times. The "
        "first method is the reference of the comparison. Without --image the bundled "
        "model describes a drawn scene. For reproducible times: --methods all "
        "--threads 1 --repeats 3.",
    )
    add_model(parser, image_required=False)
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of the drawn scene (default: 3)"
    )
    add_methods(parser, COMPARED)
    parser.add_argument(
        "--repeats",
        type=positive,
        default=1,
        metavar="N",
        help="explain N times with each method and keep the shortest time (default: 1)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="use N CPU threads"
    )
    add_out(parser, "captum-dexar-comparison")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    names = method_names(options.methods)
    gen_args = generation_arguments(options)
    check_out(options.out)
    model, processor, inp = _input(options)
    from captum_dexar import compare

    with _threads(options.threads):
        comparison = compare(
            named_methods(names, model),
            inp,
            target=options.target,
            processor=processor,
            gen_args=gen_args,
            repeats=options.repeats,
            progress=True,
        )
    _report(comparison, names, options.out)


def _input(options: argparse.Namespace) -> tuple[nn.Module, Any, Any]:
    if options.image is None:
        for name in ("model", "prompt"):
            if getattr(options, name) is not None:
                raise InputError(
                    f"--{name} needs --image as well; without both the bundled model "
                    "describes a drawn scene."
                )
        seed = DEFAULT_SEED if options.seed is None else options.seed
        check_seed("--seed", seed)
        model, processor = loaded_model(options)
        return model, processor, drawn_input(seed, model, processor)[1]
    if options.seed is not None:
        raise InputError(
            "--seed draws a scene for the bundled model, but --image is given. Leave "
            "one of them out."
        )
    return loaded_input(options)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(comparison: Comparison, names: list[str], folder: Path) -> None:
    outputs = Outputs(folder)
    results = list(comparison.results.values())
    for name, result in zip(names, results):
        outputs.add(f"{name}.dexar", result.save)
    say()
    say_question(results[0])
    say(f"The answer:  {results[0].answer}\n")
    if results[0].token_weights is not None:
        say_words(results[0])
        say()
    say(comparison.table())
    rows = comparison.rows()
    heading = ["name", *rows[0]]
    cells = [[name, *row.values()] for name, row in zip(names, rows)]
    outputs.add("compare.csv", lambda path: write_csv(path, heading, cells))
    outputs.add("page.html", lambda path: write_page(comparison, path))
    outputs.add("compare.png", lambda path: save_figure(comparison.plot(), path, _DPI))
    outputs.finish(TITLES)
