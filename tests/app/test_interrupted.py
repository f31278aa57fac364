"""Ctrl-C ends the command, whatever is open."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.app.endurance.server_process import started_server
from tests.app.page_visitor import PageVisitor

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
def test_nothing_is_said_about_pages_that_are_open(tmp_path: Path) -> None:
    with started_server(tmp_path) as server:
        waiting, busy = PageVisitor(server.address), PageVisitor(server.address)
        busy.values["Longest answer, in tokens"] = 256
        begun = threading.Event()

        def on_event(_: Any) -> None:
            begun.set()

        def ask() -> None:
            with pytest.raises(Exception):
                while True:
                    busy.press("Ask", on_event)

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(60)
        before = (tmp_path / "log.txt").read_text()
        assert "The page is at" in before
        ended = server.end()
        asking.join()
        waiting.leave()
        busy.leave()
    assert ended["status"] == 0 and ended["files"] == []
    assert (tmp_path / "log.txt").read_text() == before
