"""The folder of a run: what was measured so far, safe against being killed.

``results.jsonl`` gets a line per sample and method, and ``skipped.jsonl`` one per
damaged sample. A line is written by a single call, so that a process that is killed
leaves whole lines and at most one torn one, which is dropped when the run goes on.
``run.json`` says what the run is. A lock, which the system releases when its process
ends in whatever way, keeps a second process out.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
from captum_dexar.evaluation.dataset import DamagedSample
from captum_dexar.evaluation.protocols.base import as_json, Line, plain
from captum_dexar.result.whole_file import write_whole
from filelock import FileLock, Timeout

RESULTS, SKIPPED, RUN, LOCK = "results.jsonl", "skipped.jsonl", "run.json", ".lock"
# What makes two runs the same; "versions" and "environment" may differ.
SAME = ("dataset", "samples", "protocol", "methods", "seed", "model")
# Seconds between two calls of fsync, which only a crash of the machine needs.
_SYNC_EVERY = 1.0
# Characters of a value in a message.
_LONGEST_VALUE = 100
_Bools = npt.NDArray[np.bool_]


class OtherRunError(ValueError):
    """The folder holds results of other arguments or of another model."""


class BusyFolderError(RuntimeError):
    """Another process is writing to the folder."""


@contextmanager
def opened_results(
    folder: Path, run: Mapping[str, Any], samples: Sequence[str], methods: Sequence[str]
) -> Iterator[ResultsWriter]:
    """Opens the folder of a new run, or one that was interrupted.

    Args:
        folder (Path): made if it does not exist
        run (Mapping): what ``run.json`` says; the entries of ``SAME`` decide whether it
            is the same run
        samples (sequence of str): the ids of all samples, in the dataset's order
        methods (sequence of str): the names of all methods

    Yields:
        ResultsWriter

    Raises:
        OtherRunError: the folder holds another run.
        BusyFolderError: another process is writing to it.
        ValueError: two samples have the same id, or a file is damaged.
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyFolderError(
            f"Another process is writing to {folder}. Wait for it, or choose another "
            "folder."
        ) from None
    try:
        _check_run(folder / RUN, plain(run))
        writer = ResultsWriter(folder, samples, methods)
        try:
            yield writer
        finally:
            writer.close()
    finally:
        lock.release()


class ResultsWriter:
    """Appends to the files of a run; see :func:`opened_results`.

    Attributes:
        done (ndarray): ``(samples, methods)``, bool: what has a line, or is skipped
    """

    def __init__(
        self, folder: Path, samples: Sequence[str], methods: Sequence[str]
    ) -> None:
        self.folder = folder
        self.methods = list(methods)
        self.done: _Bools = np.zeros((len(samples), len(methods)), dtype=bool)
        index = {sample: place for place, sample in enumerate(samples)}
        if len(index) != len(samples):
            raise ValueError("Two samples of the dataset have the same id.")
        for path, mark in (
            (folder / RESULTS, self._mark_line),
            (folder / SKIPPED, self._mark_skipped),
        ):
            _drop_torn_line(path)
            for number, text in enumerate(_lines_of(path), start=1):
                with _named_line(path, number):
                    mark(text, index)
        self._results = _AppendedFile(folder / RESULTS)
        self._skipped = _AppendedFile(folder / SKIPPED)

    def _mark_line(self, text: bytes, index: Mapping[str, int]) -> None:
        line = Line.from_json(text)
        place = self._place(line.sample, index), self.methods.index(line.method)
        if self.done[place]:
            raise ValueError(
                f"sample {line.sample} has two lines of the method {line.method}"
            )
        self.done[place] = True

    def _mark_skipped(self, text: bytes, index: Mapping[str, int]) -> None:
        self.done[self._place(json.loads(text)["sample"], index)] = True

    def _place(self, sample: str, index: Mapping[str, int]) -> int:
        if sample not in index:
            raise ValueError(f"the dataset has no sample {sample!r}")
        return index[sample]

    def missing(self, index: int) -> list[str]:
        """The methods that the sample at ``index`` has no line of."""
        return [name for name, done in zip(self.methods, self.done[index]) if not done]

    def write(self, index: int, line: Line) -> None:
        """Appends a line of the sample at ``index``; one that is there is left out.

        Raises:
            OSError: it can't be written. What was written before stays readable.
        """
        place = index, self.methods.index(line.method)
        if not self.done[place]:
            self._results.append(line.to_json())
            self.done[place] = True

    def skip(self, index: int, damaged: DamagedSample) -> None:
        """Notes that the sample at ``index`` is damaged."""
        if not self.done[index].all():
            noted = {"sample": damaged.sample_id, "path": damaged.path}
            self._skipped.append(json.dumps({**noted, "reason": damaged.reason}))
            self.done[index] = True

    def close(self) -> None:
        """Closes the files."""
        self._results.close()
        self._skipped.close()


class _AppendedFile:
    """A file that grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._synced = time.monotonic()

    def append(self, text: str) -> None:
        """Appends a line; after an error the file is as it was before."""
        before = self._file.seek(0, os.SEEK_END)
        rest = memoryview(text.encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            if time.monotonic() - self._synced > _SYNC_EVERY:
                self._sync()
        except OSError as error:
            self._file.truncate(before)
            raise OSError(
                error.errno,
                f"{error.strerror}; what was measured before is kept, and the same "
                "command goes on from there",
                str(self.path),
            ) from error

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Writes what the system still holds, and closes the file."""
        if not self._file.closed:
            with self._file:
                self._sync()


def read_lines(folder: Path) -> Iterator[Line]:
    """The lines of a run, one by one; a torn last one is left out.

    Raises:
        ValueError: a line is damaged.
    """
    path = folder / RESULTS
    for number, text in enumerate(_lines_of(path), start=1):
        with _named_line(path, number):
            line = Line.from_json(text)
        yield line


def read_skipped(folder: Path) -> list[dict[str, str]]:
    """The damaged samples of a run: ``sample``, ``path`` and ``reason``."""
    return [json.loads(text) for text in _lines_of(folder / SKIPPED)]


def read_run(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the file is damaged.
    """
    path = folder / RUN
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, got {found!r}")
    return found


def _check_run(path: Path, run: dict[str, Any]) -> None:
    """Writes ``run.json``, or compares it with what is there."""
    if not path.exists():
        results = path.with_name(RESULTS)
        if results.exists() and results.stat().st_size:
            raise OtherRunError(
                f"{path.parent} holds {RESULTS} but no {RUN}, so what it was measured "
                "with is not known. Choose another folder, or delete this one."
            )
        replace_text(path, as_json(run, indent=2) + "\n")
        return
    there = read_run(path.parent)
    other = {
        name: (there.get(name), run.get(name))
        for name in SAME
        if there.get(name) != run.get(name)
    }
    before, now = there.get("versions"), run.get("versions")
    if other:
        if before != now:
            # They may be the reason.
            other["versions"] = before, now
        said = "; ".join(_difference(name, *pair) for name, pair in other.items())
        raise OtherRunError(
            f"{path.parent} holds another run: {said}. Choose another folder, or "
            "delete this one."
        )
    if before != now:
        warnings.warn(
            f"{path.parent} was begun with other versions: "
            f"{_difference('versions', before, now)}. Its numbers may differ slightly.",
            stacklevel=2,
        )


def _difference(name: str, before: Any, now: Any) -> str:
    """What differs, down to the entry: ``protocol.measures was [...], and is ...``."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{name} was {_short(before)}, and is now {_short(now)}"
    lost = [key for key in before if key not in now]
    added = [key for key in now if key not in before]
    said = []
    if lost:
        said.append(f"{name} had {', '.join(lost)}")
    if added:
        said.append(f"{name} now has {', '.join(added)}")
    changed = [key for key in before if key in now and before[key] != now[key]]
    said += [_difference(f"{name}.{key}", before[key], now[key]) for key in changed]
    return "; ".join(said)


def _short(value: Any) -> str:
    return shorten(json.dumps(value), _LONGEST_VALUE, placeholder="...")


def _drop_torn_line(path: Path) -> None:
    """Cuts what a killed process left of its last line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                position = start + found + 1
                break
            position = start
        if position < end:
            file.truncate(position)


def _lines_of(path: Path) -> Iterable[bytes]:
    """The whole lines of a file; none if there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                yield text[:-1]


@contextmanager
def _named_line(path: Path, number: int) -> Iterator[None]:
    """Names the line of a file in errors about what it says."""
    try:
        yield
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path}, line {number}: {error}. Remove this line; what it says is then "
            "measured again."
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    # Names of files can hold what is no text; in JSON it is escaped already.
    write_whole(path, text.encode("utf-8", errors="backslashreplace"))
