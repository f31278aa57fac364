"""What the users did, how long it took, and what went wrong."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Journal:
    """Filled by all users at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self.done: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {}
        self.faults: list[dict[str, Any]] = []

    def did(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def refused(self, why: str) -> None:
        """Something was refused, as it had to be."""
        with self._lock:
            self.refusals[why] += 1

    def took(self, what: str, seconds: float) -> None:
        with self._lock:
            self.seconds.setdefault(what, []).append(seconds)

    def fault(self, who: str, what: str, text: str) -> None:
        """Anything that had not to happen."""
        fault = {
            "second": time.monotonic() - self._start,
            "who": who,
            "what": what,
            "text": text,
        }
        with self._lock:
            self.faults.append(fault)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts and times what succeeds."""
        start = time.monotonic()
        yield
        self.did(what)
        self.took(what, time.monotonic() - start)

    def latencies(self) -> dict[str, dict[str, float]]:
        """Number, median, 95th percentile and maximum of seconds, by what was done."""
        with self._lock:
            return {
                what: {
                    "number": len(seconds),
                    "median": float(np.median(seconds)),
                    "p95": float(np.percentile(seconds, 95)),
                    "max": max(seconds),
                }
                for what, seconds in sorted(self.seconds.items())
            }
