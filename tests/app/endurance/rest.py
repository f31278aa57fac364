"""Moments in which nobody does anything."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Rest:
    """Lets all users pause between two of their actions.

    How much memory a server holds while it works depends on what it is working at. At
    rest it holds what stays with it: open results, and what the allocator keeps, which
    varies by a sixth from rest to rest. The verdict is by all samples.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_on = False
        self._resting = 0

    def join(self) -> None:
        """Waits for the end of a rest, if there is one."""
        with self._changed:
            self._resting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_on)
            self._resting -= 1

    @contextmanager
    def of(self, users: int, seconds: float) -> Iterator[bool]:
        """Within it users rest.

        Args:
            users (int): how many there are
            seconds (float): for how long to wait for them

        Yields:
            bool: whether all rest
        """
        with self._changed:
            self._is_on = True
            everybody = self._changed.wait_for(lambda: self._resting == users, seconds)
        try:
            yield everybody
        finally:
            with self._changed:
                self._is_on = False
                self._changed.notify_all()
