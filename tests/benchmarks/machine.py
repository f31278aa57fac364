"""On what something is measured, and with how many threads."""

import datetime
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import captum_dexar
import torch
import transformers


def machine() -> dict[str, str]:
    """Facts by name, all as text."""
    facts = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "CPU": _cpu_name(),
        "cores": str(os.cpu_count()),
        "threads": "1 where a row does not say otherwise",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "captum_dexar": captum_dexar.__version__,
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """That many threads for torch, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
