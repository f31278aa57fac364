"""Telling threads apart, and locks that a fork leaves free.

The number that the system gives a thread is not enough. After a fork the child has the
entries of threads that don't exist in it, and its next thread may get their number.
"""

import os
import threading
from typing import Any, TypeVar

_Lock = TypeVar("_Lock")


class _OfThread(threading.local):
    """What every thread has a copy of."""

    def __init__(self) -> None:
        self.token = object()


_OF_THREAD = _OfThread()


def this_thread() -> object:
    """What stands for the running thread, and for no other, even after its end."""
    return _OF_THREAD.token


def kept_free_in_forks(lock: _Lock) -> _Lock:
    """A lock that no other thread holds while a process is forked.

    A child would wait for it forever, because the thread that holds it does not exist
    there. No thread may wait for one such lock while it holds another.
    """
    held: Any = lock
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=held.acquire,
            after_in_parent=held.release,
            after_in_child=held.release,
        )
    return lock
