"""Standard output as a terminal, a pipe, or something that lacks characters."""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Printed:
    """What a terminal has been given.

    Attributes:
        text (str): all of it, once the terminal is closed
    """

    text = ""


@contextmanager
def a_terminal(
    monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8"
) -> Iterator[Printed]:
    """Within it standard output is a pseudo-terminal."""
    master, slave = os.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        while True:
            try:
                chunk = os.read(master, 4096)
            except OSError:  # the other end is closed
                return
            if not chunk:
                return
            chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    printed = Printed()
    stream = open(slave, "w", encoding=encoding)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            yield printed
    finally:
        stream.close()
        reader.join()
        os.close(master)
        printed.text = b"".join(chunks).decode(encoding).replace("\r\n", "\n")


@contextmanager
def a_file(
    monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8"
) -> Iterator[Printed]:
    """Within it standard output is written to memory, strictly in an encoding."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="strict")
    printed = Printed()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        yield printed
    stream.flush()
    printed.text = written.getvalue().decode(encoding)


@contextmanager
def a_pipe_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Within it standard output is a pipe whose reader has gone, and not buffered."""
    reader, writer = os.pipe()
    os.close(reader)
    stream: Any = open(writer, "wb", buffering=0)
    text = io.TextIOWrapper(stream, encoding="utf-8", write_through=True)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", text)
        yield text
    text.close()
