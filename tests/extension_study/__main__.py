"""``python -m tests.extension_study measure`` and ``... tables``."""

import argparse
from pathlib import Path

from tests.extension_study.measuring import measure, save, WORLDS

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.extension_study", description=__doc__
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure", help="measures one model")
    one.add_argument("--name", required=True, help="its name in tables")
    one.add_argument("--model", type=Path, required=True, metavar="DIR")
    one.add_argument("--world", choices=WORLDS, default="shapes")
    one.add_argument("--trained-by", required=True, help="the command that trained it")
    one.add_argument("--folder", type=Path, required=True, help="for measurements")
    one.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    one.add_argument("--first-seed", type=int, default=0)
    one.add_argument("--scenes", type=int, default=300)
    one.add_argument("--slow-scenes", type=int, default=60)
    one.add_argument("--accuracy-scenes", type=int, default=500)
    one.set_defaults(run=_measure)
    options = parser.parse_args()
    options.run(options)


def _measure(options: argparse.Namespace) -> None:
    kept = measure(
        options.name,
        options.model,
        options.world,
        options.folder,
        first_seed=options.first_seed,
        num_scenes=options.scenes,
        num_slow=options.slow_scenes,
        accuracy_scenes=options.accuracy_scenes,
        trained_by=options.trained_by,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    save(kept, options.out / f"{options.name}.json")


if __name__ == "__main__":
    main()
