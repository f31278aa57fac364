"""Ctrl-C: what comes of it is known, whatever it is that it breaks."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether the user has asked to stop.

    Attributes:
        came (bool): libraries that are interrupted, most of all while they are
            imported, may raise something else than KeyboardInterrupt
    """

    came = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)


@contextmanager
def noticed_interrupts() -> Iterator[Interrupts]:
    """Within it Ctrl-C raises KeyboardInterrupt, as ever, and is remembered."""
    interrupts = Interrupts()
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # Other threads can't set handlers, and another handler is its program's own.
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts._handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
