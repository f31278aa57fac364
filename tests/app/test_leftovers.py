"""Nothing of a closed page is kept: neither on disk nor in memory."""

import gc
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from captum_dexar.app.server import application
from tests.app.page_visitor import PageVisitor, served
from tests.app.questions import generated_ids, picture, PROCESSOR, tiny_model
from tests.app.test_uploads import file_of

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")
MODEL = tiny_model()
PNG = file_of(picture(), "PNG")
_SECONDS = 60


@pytest.fixture(name="page")
def _page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """The address of a page, and the folder of its files."""
    import tempfile

    generated_ids(MODEL)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scenes = [picture(turn) for turn in range(2)]
    with application(
        MODEL, PROCESSOR, model_name="tiny", scenes=scenes, new_tokens=40
    ) as app:
        with served(app) as address:
            (folder,) = tmp_path.iterdir()
            yield address, folder


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true."""
    until = time.monotonic() + _SECONDS
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def is_in_memory(text: str) -> bool:
    """Whether a container of Python's holds a string with this text."""
    gc.collect()
    for one in gc.get_objects():
        with suppress(Exception):
            inner: Any = ()
            if type(one) is dict:
                inner = list(one.values())
            elif type(one) in (list, tuple, set):
                inner = list(one)
            if any(type(value) is str and text in value for value in inner):
                return True
    return False


class Closed(Exception):
    """Raised to break off listening to the page."""


@pytest.mark.parametrize("moment", ["after the answer", "in the middle", "at once"])
def test_a_closed_page_is_not_in_memory(page: tuple[str, Path], moment: str) -> None:
    visitor = PageVisitor(page[0])
    # The tokenizer takes it apart, so that no answer holds it.
    mark = secrets.token_hex(8)
    visitor.values["Question"] = f"what is in the {mark} image ?"
    seen = 0

    def on_event(event: Any) -> None:
        nonlocal seen
        seen += event["msg"] == "process_generating"
        if seen == 3:
            raise Closed

    if moment == "after the answer":
        assert mark in visitor.press("Ask")
    elif moment == "in the middle":
        with pytest.raises(Closed):
            visitor.press("Ask", on_event)
    else:
        visitor.press_unheard("Ask")
    visitor.values.clear()
    assert moment == "in the middle" or is_in_memory(mark)
    visitor.leave()
    visitor.http.close()
    assert soon(lambda: not is_in_memory(mark))


def test_a_page_that_only_uploads(page: tuple[str, Path]) -> None:
    address, folder = page
    before = everything(folder)
    visitor = PageVisitor(address)
    path = Path(visitor.choose_image("own.png", PNG))
    assert path in everything(folder)
    visitor.leave()
    assert soon(lambda: everything(folder) == before)


def test_an_upload_that_is_broken_off(
    page: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    address, folder = page
    before = everything(folder)
    visitor = PageVisitor(address)

    def begun() -> None:
        assert soon(lambda: everything(folder) != before)

    visitor.break_off_upload(PNG * 2000, begun)
    assert soon(lambda: everything(folder) == before)
    # A whole one is kept.
    path = Path(visitor.choose_image("own.png", PNG))
    assert path.read_bytes() == PNG
    visitor.leave()
    assert "Traceback" not in capfd.readouterr().err


def test_a_page_reloaded_many_times(page: tuple[str, Path]) -> None:
    visitor = PageVisitor(page[0])
    visitor.values["Longest answer, in tokens"] = 1
    for _ in range(3):
        visitor.choose_image("own.png", PNG)
        visitor.press("Ask")
        visitor.open()
    assert soon(lambda: count_of("SessionState") <= 1)
    visitor.leave()


def count_of(kind: str) -> int:
    gc.collect()
    return sum(type(one).__name__ == kind for one in gc.get_objects())
