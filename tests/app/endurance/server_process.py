"""The command ``captum-dexar app`` in a process of its own, watched from outside."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

MIB = 2**20
ROOT = Path(__file__).resolve().parents[3]
_SECONDS_TO_START = 180
_SECONDS_TO_END = 30


@dataclass(frozen=True)
class Sample:
    """The server process at a moment.

    Attributes:
        second (float): since the first sample
        resident (float): memory, in MiB
        private (float): of it what no other process shares, in MiB
        open_files (int): files and connections
        threads (int): of all kinds
        children (int): processes that it started
        files (int): on disk, below its folder for temporary files
        file_bytes (int): their size
    """

    second: float
    resident: float
    private: float
    open_files: int
    threads: int
    children: int
    files: int
    file_bytes: int


class ServerProcess:
    """A running server.

    Args:
        process (subprocess.Popen): the process
        folder (Path): its folder for temporary files
        address (str): of the page
    """

    def __init__(self, process: Any, folder: Path, address: str) -> None:
        self._popen, self._folder, self.address = process, folder, address
        self._process = psutil.Process(process.pid)
        self._start = time.monotonic()

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def sample(self) -> Sample:
        memory = self._process.memory_full_info()
        sizes = self.files()
        return Sample(
            time.monotonic() - self._start,
            memory.rss / MIB,
            memory.uss / MIB,
            self._process.num_fds(),
            self._process.num_threads(),
            len(self._process.children(recursive=True)),
            len(sizes),
            sum(sizes.values()),
        )

    def files(self) -> dict[str, int]:
        """Sizes of its temporary files, by name below their folder."""
        sizes: dict[str, int] = {}
        # Unlike Path.rglob, it goes on where something has just been removed.
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):
                    sizes[str(path.relative_to(self._folder))] = path.stat().st_size
        return sizes

    def folders(self) -> int:
        """How many folders are among its temporary files."""
        return sum(len(folders) for _, folders, _ in os.walk(self._folder))

    def look_inside(self) -> dict[str, Any]:
        """What the process says of itself; see ``inside/sitecustomize.py``."""
        path = self._folder.parent / "inside.json"
        path.unlink(missing_ok=True)
        self._popen.send_signal(signal.SIGUSR1)
        until = time.monotonic() + _SECONDS_TO_START
        while not path.exists():
            assert self.is_running and time.monotonic() < until
            time.sleep(0.1)
        said: dict[str, Any] = json.loads(path.read_text())
        return said

    def end(self) -> dict[str, Any]:
        """Interrupts the server as Ctrl-C does; how it ended, and what it left."""
        self._popen.send_signal(signal.SIGINT)
        start = time.monotonic()
        status = self._popen.wait(_SECONDS_TO_END)
        return {
            "status": status,
            "seconds": time.monotonic() - start,
            "files": list(self.files()),
        }


@contextmanager
def started_server(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    """A server whose temporary files and log are in a folder.

    Args:
        folder (Path): an empty one
        *arguments (str): of the command, beside the port
    """
    temporary, log = folder / "temporary", folder / "log.txt"
    temporary.mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "DEXAR_LOOK_INSIDE": str(folder / "inside.json"),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent / "inside"), str(ROOT)]
        ),
    }
    command = [sys.executable, "-m", "captum_dexar", "app", "--port", "0", *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield ServerProcess(process, temporary, _address(process, log))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _address(process: Any, log: Path) -> str:
    until = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        if said := re.search(r"The page is at (\S+)", log.read_text()):
            return said[1]
        time.sleep(0.2)
    raise RuntimeError(f"the server has not started:\n{log.read_text()}")
