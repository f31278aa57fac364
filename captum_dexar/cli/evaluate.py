"""``captum-dexar evaluate``: measures methods on a dataset, into a folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TYPE_CHECKING

from captum_dexar.cli.console import say
from captum_dexar.cli.loading import loaded_model
from captum_dexar.cli.options import (
    add_loading,
    add_methods,
    check_out,
    check_seed,
    InputError,
    method_names,
    positive,
)
from captum_dexar.cli.protocols import (
    add_protocol,
    EFFECTS,
    made_protocol,
    protocol_name,
)
from captum_dexar.comparison.methods import EVALUATED, named_methods

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands
    from captum_dexar.evaluation import EvaluationDataset
    from captum_dexar.evaluation.runner import Job
    from captum_dexar.evaluation.summary import Summary
    from torch import nn

_COCO = "coco"
# By their names here, the classes of captum_dexar.evaluation.
_DATASETS = {
    "voc": "PascalVOC",
    "imagenet": "ImageNetValidation",
    "vqav2": "VQAv2",
    _COCO: "COCOCaptions",
}
SHAPES = "shapes"
_LETTERS = "letters"
# Those that are drawn, and need no folder.
_DRAWN = {SHAPES: "ShapesDataset", _LETTERS: "LettersDataset"}
# By their names among a protocol's controls, the classes of
# captum_dexar.evaluation.oracle.
_ORACLES = {
    "oracle": "TrueMaskOracle",
    "effects-tokens": "EffectsTokensOracle",
    "effects-oracle": "EffectsOracle",
}
_LOCAL = "local"
_SCENES = 500


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure on a dataset how good the maps of methods are",
        description="Explains the answers of a dataset with several methods, and "
        "measures their maps by a protocol, with chance for comparison. Without "
        "--dataset, on held-out scenes of the bundled world; without --model, with the "
        "bundled model. results.jsonl gets a line per sample and method as it goes: "
        "started again after an interruption, the same command goes on where it was. "
        "summary.md and summary.csv have means with 95 % intervals, and differences "
        "from the reference method.",
    )
    parser.add_argument(
        "--dataset",
        choices=(*_DRAWN, *_DATASETS),
        default=SHAPES,
        help="the dataset (default: shapes, the bundled scenes; letters, scenes of "
        "letters and digits, is drawn as well, and no model of them is bundled)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of the dataset, in its published layout; all need it but those "
        "that are drawn",
    )
    parser.add_argument(
        "--model",
        metavar="ID_OR_FOLDER",
        help="the model to load (default: the bundled model, on the CPU)",
    )
    add_loading(parser)
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help=f"number of samples, drawn by --seed (default: all; {_SCENES} scenes)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of everything random, and of the first scene; the bundled model was "
        "not trained on scenes below 1000000 (default: 0)",
    )
    parser.add_argument(
        "--accuracy",
        action="store_true",
        help="first print how often the model is exactly right about the drawn scenes; "
        "the bundled model, or one that was trained on them",
    )
    parser.add_argument(
        "--own-answer",
        action="store_true",
        help="with coco, explain what the model itself says, instead of the first "
        "caption",
    )
    add_methods(parser, EVALUATED)
    parser.epilog = f"{parser.epilog}. Those that a protocol needs for comparison are "
    parser.epilog += (
        "added: chance, and the true mask as the most that a map can score."
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const=_LOCAL,
        metavar="ADDRESS",
        help="measure with Ray: on the cluster at ADDRESS, whose machines need the "
        "same model and data, or on this machine if there is no address",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="with --ray, number of processes that load the model (default: one per "
        "GPU or, without any, per machine)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="N",
        help="with --ray, GPUs of each; more than one for --device auto (default: 1 "
        "if there is any)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the run (default: captum-dexar-evaluation/DATASET-PROTOCOL)",
    )
    add_protocol(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    names = method_names(options.methods)
    check_seed("--seed", options.seed)
    _check_dataset(options)
    _check_protocol(options)
    _check_ray(options)
    from captum_dexar.evaluation.results_folder import BusyFolderError, OtherRunError

    name = f"{options.dataset}-{protocol_name(options)}"
    out = options.out or Path("captum-dexar-evaluation", name)
    check_out(out)
    try:
        if options.ray is None:
            _run_here(options, names, out)
        else:
            _run_on_ray(options, names, out)
    except (OtherRunError, BusyFolderError) as error:
        raise InputError(f"--out: {error}") from None
    except KeyboardInterrupt:
        say(
            f"\nWhat was measured is kept in {out}. The same command goes on from "
            "there.",
            error=True,
        )
        raise
    _report(out)


def _run_here(options: argparse.Namespace, names: list[str], out: Path) -> None:
    from captum_dexar.evaluation.runner import run as run_job

    job = _job(options, names)
    if options.accuracy:
        _print_accuracy(job.model, job.processor, job.dataset)
    run_job(job, out, progress=True)


def _run_on_ray(options: argparse.Namespace, names: list[str], out: Path) -> None:
    from captum_dexar.evaluation.ray_runner import run_on_ray, Workers

    # Workers have other working directories.
    if options.root is not None:
        options.root = options.root.absolute()
    if options.model is not None and Path(options.model).is_dir():
        options.model = str(Path(options.model).absolute())
    run_on_ray(
        partial(_job, options, names),
        out,
        address=None if options.ray == _LOCAL else options.ray,
        workers=Workers(options.workers, options.gpus_per_worker),
        progress=True,
    )


def _job(options: argparse.Namespace, names: list[str]) -> Job:
    """What is measured; with --ray each worker makes it."""
    from captum_dexar.evaluation.runner import Job

    model, processor = loaded_model(options)
    dataset = _dataset(options, model, processor)
    protocol = made_protocol(options, dataset)
    methods = _methods([*names, *protocol.controls], model)
    return Job(dataset, methods, protocol, model, processor, options.seed)


def _check_ray(options: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    if options.ray is None:
        for name in ("workers", "gpus_per_worker"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} needs --ray.")
    elif options.accuracy:
        raise InputError("--accuracy asks the model here; leave --ray out.")


def _check_dataset(options: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    is_drawn = options.dataset in _DRAWN
    if is_drawn and options.root is not None:
        raise InputError(
            f"--root is for datasets on disk; {options.dataset} are drawn."
        )
    if not is_drawn and options.root is None:
        raise InputError(f"--dataset {options.dataset} needs --root, its folder.")
    if options.root is not None and not options.root.is_dir():
        raise InputError(f"--root: there is no folder {options.root}.")
    if options.dataset == _LETTERS and options.model is None:
        raise InputError(
            "--dataset letters needs --model, a model that was trained on such scenes "
            "or a general one: the bundled model knows drawn shapes and colours only."
        )
    if options.own_answer and options.dataset != _COCO:
        raise InputError(
            "--own-answer is for coco, whose captions are explained otherwise; drawn "
            "scenes have true captions, and other datasets no answers."
        )
    if options.accuracy and not is_drawn:
        raise InputError(
            f"--accuracy asks about drawn scenes; {options.dataset} has photographs."
        )


def _check_protocol(options: argparse.Namespace) -> None:
    """Raises InputError for a protocol's options without it, and for a dataset that it
    can't measure, before the model is loaded."""
    if protocol_name(options) != EFFECTS:
        return
    from captum_dexar import evaluation

    made = getattr(evaluation, (_DRAWN | _DATASETS)[options.dataset])
    if not issubclass(made, evaluation.RedrawnScenes):
        raise InputError(
            f"--protocol {EFFECTS} needs scenes that can be drawn again without an "
            f"object; --dataset {options.dataset} has photographs."
        )


def _dataset(
    options: argparse.Namespace, model: nn.Module, processor: Any
) -> EvaluationDataset:
    from captum_dexar import evaluation
    from captum_dexar.evaluation.datasets.drawn_scenes import OBJECTS

    if options.dataset in _DRAWN:
        seeds = range(options.seed, options.seed + (options.limit or _SCENES))
        scenes = getattr(evaluation, _DRAWN[options.dataset])
        drawn: EvaluationDataset = scenes(
            seeds, processor, model, kinds=(*scenes.word_kinds, OBJECTS)
        )
        return drawn
    dataset = getattr(evaluation, _DATASETS[options.dataset])
    own: dict[str, Any] = {"own_answer": True} if options.own_answer else {}
    try:
        made: EvaluationDataset = dataset(
            options.root,
            processor,
            model,
            limit=options.limit,
            seed=options.seed,
            **own,
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"--dataset {options.dataset}: {error}") from error
    return made


def _methods(names: list[str], model: nn.Module) -> Mapping[str, tuple[Any, Any]]:
    """The methods by title; names that are given twice count once."""
    from captum_dexar.evaluation import oracle

    every = list(dict.fromkeys(names))
    methods = named_methods([name for name in every if name not in _ORACLES], model)
    for name in every:
        if name in _ORACLES:
            made = getattr(oracle, _ORACLES[name])(model)
            methods[made.name] = (made, {})
    return methods


def _print_accuracy(model: Any, processor: Any, dataset: Any) -> None:
    from captum_dexar.worlds.accuracy import measure_accuracy

    world = dataset.world
    if processor.tokenizer.get_vocab() != dict(world.vocabulary):
        raise InputError(
            f"--accuracy asks in the words of the drawn {world.name}; this model was "
            "not trained on them."
        )
    accuracy = measure_accuracy(
        world, model, processor, dataset.seeds, show_progress=True
    )
    say("\n| answers | exactly right | asked | share |\n|---|---|---|---|")
    for kind, value in accuracy.items():
        say(f"| {kind} | {value.right} | {value.asked} | {value.share:.3f} |")


def _report(out: Path) -> None:
    """Writes and prints the tables; RuntimeError if nothing was measured."""
    from captum_dexar.evaluation.curves import write_curves
    from captum_dexar.evaluation.summary import write_summary

    summary = write_summary(out)
    figures = write_curves(summary, out)
    say(f"\n{summary.brief()}\n")
    _print_seconds(summary)
    files = ["summary.csv", "seconds.csv", "results.jsonl", "run.json"]
    say(f"\nThe tables:  {out / 'summary.md'}")
    say(f"In the same folder:  {', '.join([*files, *(one.name for one in figures)])}")
    if not summary.measurements.lines:
        raise RuntimeError("nothing was measured; the reasons are in the tables.")


def _print_seconds(summary: Summary) -> None:
    say("| method | seconds per sample |\n|---|---|")
    for method, _, mean, *_ in summary.seconds():
        say(f"| {method} | {float(mean):.3f} |")
