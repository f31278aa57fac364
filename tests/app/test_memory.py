"""Memory goes back to the system, and the garbage collector has little to look at."""

import ctypes
import gc
from typing import Any

import numpy as np
import psutil
import pytest
from captum_dexar.app import server
from captum_dexar.app.memory import give_back

MIB = 2**20


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_freed_memory_is_given_back() -> None:
    process = psutil.Process()
    # Too small for mappings of their own; the last one holds the end of the heap.
    pieces: list[Any] = [np.ones(64 * 2**10, np.uint8) for _ in range(3000)]
    del pieces[:-1]
    before = process.memory_info().rss
    give_back()
    assert before - process.memory_info().rss > 100 * MIB


def test_it_is_no_fault_where_memory_can_t_be_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()


def test_what_is_there_when_serving_begins_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And only then."""
    uvicorn = pytest.importorskip("uvicorn", reason="Gradio is not installed")
    counts = []

    def run(*_: Any, sockets: Any) -> None:
        counts.append(gc.get_freeze_count())
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    gc.unfreeze()
    server.serve(object(), "127.0.0.1", 0, lambda address: None)
    assert counts[0] > 10_000 and gc.get_freeze_count() == 0
