"""Printing: inert, in colour where a terminal shows it, and quiet when nobody reads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from captum_dexar.cli.terminal import terminal_text

_PACKAGE = Path(__file__).parents[1]


def say(text: object = "", *, error: bool = False) -> None:
    """Prints a text, which may hold anything, as lines of visible characters.

    Args:
        text (object, optional): what to print. Default: an empty line
        error (bool, optional): prints to standard error. Default: False
    """
    stream = sys.stderr if error else sys.stdout
    write(f"{terminal_text(str(text), encoding_of(stream))}\n", stream)


def write(text: str, stream: TextIO | None = None, flush: bool = False) -> None:
    """Writes a text that is safe already, to standard output by default.

    When the reader has gone, as of ``captum-dexar ... | head``, nothing is written from
    then on, and files are still made.
    """
    stream = sys.stdout if stream is None else stream
    if stream is None:
        # A program without a console has no standard streams.
        return
    try:
        stream.write(text)
        if flush:
            stream.flush()
    except BrokenPipeError:
        _discard(stream)


def encoding_of(stream: TextIO | None = None) -> str:
    """The encoding of standard output, or of another stream."""
    stream = sys.stdout if stream is None else stream
    return getattr(stream, "encoding", None) or "utf-8"


def is_terminal() -> bool:
    """Whether standard output is read by a person as it comes."""
    return sys.stdout is not None and sys.stdout.isatty()


def shows_colour() -> bool:
    """Whether standard output shows colours, and is not asked not to (no-color.org)."""
    if not is_terminal() or os.environ.get("NO_COLOR"):
        return False
    # Older consoles of Windows print the codes; newer ones tell of themselves.
    old = os.name == "nt" and not {"WT_SESSION", "TERM"} & set(os.environ)
    return not old and os.environ.get("TERM") != "dumb"


@contextmanager
def printing() -> Iterator[None]:
    """Within it a character that a stream lacks is no error, and the package's own
    warnings are a line of visible characters without the place in the code.

    What has been printed is written at the end."""
    streams: list[Any] = [sys.stdout, sys.stderr]
    errors = [(one, one.errors) for one in streams if hasattr(one, "reconfigure")]
    for stream, _ in errors:
        stream.reconfigure(errors="backslashreplace")
    usual: Any = warnings.formatwarning

    def plain(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if _PACKAGE not in Path(filename).parents:
            text: str = usual(message, category, filename, lineno, line)
            return text
        # A progress bar has left the cursor in its line.
        return f"\n{terminal_text(str(message), encoding_of(sys.stderr))}\n"

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual
        for stream in streams:
            if stream is not None:
                write("", stream, flush=True)
        for stream, before in errors:
            stream.reconfigure(errors=before)


def _discard(stream: TextIO) -> None:
    """Sends what a stream still holds, and what follows, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
