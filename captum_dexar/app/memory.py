"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Gives back what has been freed.

    The C library of Linux keeps it for the thread that freed it, and a page is served
    by many threads: the process would grow to several times of what it uses. Elsewhere
    nothing is done.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
