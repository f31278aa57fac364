"""Prints the tables of the README: ``python -m tests.big_models``."""

from tests.big_models.table import TABLES


def main() -> None:
    for name, table in TABLES.items():
        print(f"<!-- {name} -->\n{table()}\n<!-- /{name} -->\n")


if __name__ == "__main__":
    main()
