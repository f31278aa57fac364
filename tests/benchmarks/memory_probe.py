"""The peak of resident memory of one piece of work, in a process of its own.

``python -m tests.benchmarks.memory_probe explained --num-tokens 128`` prints the bytes.
"""

import argparse
import copy
import ctypes
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.models import answer, generating, llava, prefilled, prompt

MIB = 2**20
GIB = 2**30
ROOT = Path(__file__).resolve().parents[2]
STATUS = Path("/proc/self/status")
HIGH_WATER_MARK = Path("/proc/self/clear_refs")
# Freed tensors go back to the system at once, so that a peak is one of tensors in use
# and the same in every run.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}


def peak_bytes(
    work: str, *, num_tokens: int, grid: int, layers: int, num_text: int = 24
) -> int:
    """Measures in a new process.

    Args:
        work (str): one of ``WORK``
        num_tokens (int): of the answer
        grid, layers (int): of the model
        num_text (int, optional): tokens of the prompt beside the image's. Default: 24
    """
    numbers = {
        "--num-tokens": num_tokens,
        "--grid": grid,
        "--layers": layers,
        "--num-text": num_text,
    }
    command = [sys.executable, "-m", "tests.benchmarks.memory_probe", work]
    for name, number in numbers.items():
        command += [name, str(number)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **ALLOCATOR},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def _plain(model: Any, inputs: Any, num_tokens: int) -> Callable[[], object]:
    return partial(model.generate, **inputs, **generating(num_tokens))


def _imported(model: Any, inputs: Any, num_tokens: int) -> Callable[[], object]:
    """The plain way, but the package and what it needs are loaded."""
    import captum_dexar  # noqa: F401

    return _plain(model, inputs, num_tokens)


def _explained(model: Any, inputs: Any, num_tokens: int) -> Callable[[], object]:
    from captum_dexar import LayerDexAR, VLMAttribution

    method = VLMAttribution(LayerDexAR(model))
    return partial(method.attribute, inputs, gen_args=generating(num_tokens))


def _explaining(model: Any, inputs: Any, num_tokens: int) -> Callable[[], object]:
    """Only what comes after the prompt."""
    from captum_dexar import LayerDexAR
    from captum_dexar.decoding import DecodingSteps
    from captum_dexar.inputs import Prompt

    cache = prefilled(model, inputs)
    steps = DecodingSteps(Prompt(model, inputs), answer(num_tokens))
    # What finds the decoder runs the model once, and is kept.
    LayerDexAR(model).attribute_steps(
        DecodingSteps(Prompt(model, inputs), answer(1)), copy.deepcopy(cache)
    )
    return partial(LayerDexAR(model).attribute_steps, steps, cache)


WORK = {
    "plain": _plain,
    "imported": _imported,
    "explained": _explained,
    "explaining": _explaining,
}


def _forget_peak() -> None:
    """Lets the mark start from what is held now, where the system can."""
    if HIGH_WATER_MARK.exists():
        ctypes.CDLL(None).malloc_trim(0)
        HIGH_WATER_MARK.write_text("5")


def _peak() -> int:
    # ru_maxrss would count the parent process, from before the new program started.
    if STATUS.exists():
        match = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
        assert match is not None
        return int(match[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--num-tokens", type=int, default=128)
    parser.add_argument("--grid", type=int, default=24)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--num-text", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = llava(args.grid, args.layers)
    inputs = prompt(args.grid, args.num_text)
    run = WORK[args.work](model, inputs, args.num_tokens)
    # Making random weights takes more than the weights.
    _forget_peak()
    run()
    print(_peak())


if __name__ == "__main__":
    main()
