"""``python -m tests.benchmarks`` measures all that can be measured on this machine.

It prints one table of ratios and saves it in ``benchmark-results/``.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest

# In the order in which the table shows them.
FILES = (
    "bench_generating.py",
    "bench_checks.py",
    "bench_floor.py",
    "bench_teacher_forced.py",
    "bench_integrated_gradients.py",
    "bench_memory.py",
    "bench_endurance.py",
    "bench_scaling.py",
    "bench_batches.py",
    "bench_cuda.py",
    "bench_profile.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("-k", metavar="EXPR", help="only these, as in pytest")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of a few minutes"
    )
    args = parser.parse_args()
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise SystemExit('The benchmarks need: pip install ".[benchmark]"')
    folder = Path(__file__).parent
    command = [str(folder / name) for name in FILES]
    command += ["-o", "python_files=bench_*.py", "-v", "--benchmark-quiet"]
    # Random models may find nothing in a random image.
    command += ["-W", "ignore:The map of the whole answer"]
    if args.k:
        command += ["-k", args.k]
    if args.quick:
        command.append("--quick")
    return int(pytest.main(command))


if __name__ == "__main__":
    sys.exit(main())
