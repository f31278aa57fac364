"""Prints the table: ``python -m tests.right_or_refused [--family llava] [...]``."""

import argparse

from tests.families.cases import CASES
from tests.right_or_refused.arguments import ARGUMENTS
from tests.right_or_refused.setting import Setting
from tests.right_or_refused.table import rows
from tests.right_or_refused.ways import WAYS
from tests.right_or_refused.wrappers import PLAIN, WRAPPERS


def main() -> None:
    wrappers = {wrapper.name: wrapper for wrapper in (PLAIN, *WRAPPERS)}
    families = {case.name: case for case in CASES}
    ways = {way.name: way for way in WAYS}
    parser = argparse.ArgumentParser(
        prog="python -m tests.right_or_refused",
        description="Every argument of generate: right, or refused with a reason.",
    )
    parser.add_argument("--family", nargs="+", choices=families, default=["llava"])
    parser.add_argument("--wrapper", nargs="+", choices=wrappers, default=["plain"])
    parser.add_argument("--way", nargs="+", choices=ways, default=list(ways))
    parser.add_argument(
        "--argument", default="", help="only arguments whose name contains this"
    )
    given = parser.parse_args()
    arguments = [one for one in ARGUMENTS if given.argument in one.name]
    for family in given.family:
        for wrapper in given.wrapper:
            print(f"\n## {family}, {wrapper}\n")
            setting = Setting(families[family], wrappers[wrapper])
            for row in rows(setting, arguments, [ways[way] for way in given.way]):
                print(row, flush=True)


if __name__ == "__main__":
    main()
