"""The study, step by step: ``python -m tests.extension_study train|measure|tables``."""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.extension_study.measuring import measure, save
from tests.extension_study.models import MODELS, StudiedModel
from tests.extension_study.tables import README, RESULTS, TABLES, with_tables


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.extension_study",
        description="Trains the models of the study, measures all methods on them, and "
        "prints the tables. Every step goes on after an interruption.",
    )
    commands = parser.add_subparsers(required=True)
    for name, run, about in (
        ("train", _train, "trains models, one after another"),
        ("measure", _measure, "measures all methods on trained models"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument(
            "models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}"
        )
        command.add_argument(
            "--folder",
            type=Path,
            required=True,
            help="where models and measurements are kept",
        )
        command.set_defaults(run=run)
        if run is _measure:
            command.add_argument("--first-seed", type=int, default=0)
            command.add_argument("--scenes", type=int, default=300)
            command.add_argument("--slow-scenes", type=int, default=60)
            command.add_argument("--accuracy-scenes", type=int, default=500)
            command.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    tables = commands.add_parser("tables", help="prints tables of the kept results")
    tables.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    tables.add_argument(
        "--write", action="store_true", help="puts those of the README there instead"
    )
    tables.set_defaults(run=_print_tables)
    options = parser.parse_args()
    options.run(options)


def _chosen(options: argparse.Namespace) -> list[StudiedModel]:
    """The named models, or all."""
    unknown = [name for name in options.models if name not in MODELS]
    if unknown:
        raise SystemExit(f"There is no model {unknown[0]}, but {', '.join(MODELS)}.")
    return [MODELS[name] for name in options.models or MODELS]


def _train(options: argparse.Namespace) -> None:
    for model in _chosen(options):
        _, *command = model.command.split()
        out = options.folder / model.name
        subprocess.run([sys.executable, *command, "--out", str(out)], check=True)


def _measure(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    for model in _chosen(options):
        kept = measure(
            model,
            options.folder / model.name,
            options.folder / f"{model.name}-measured",
            first_seed=options.first_seed,
            num_scenes=options.scenes,
            num_slow=options.slow_scenes,
            accuracy_scenes=options.accuracy_scenes,
        )
        save(kept, options.out / f"{model.name}.json")


def _print_tables(options: argparse.Namespace) -> None:
    if options.write:
        README.write_text(with_tables(README.read_text(encoding="utf-8")))
        return
    for name in options.tables or TABLES:
        print(f"{name}:\n\n{TABLES[name]()}\n")


if __name__ == "__main__":
    main()
