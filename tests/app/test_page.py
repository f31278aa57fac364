"""The page as it is served: two visitors, limits, failures, and nothing left behind."""

import html
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from captum_dexar import VLMAttributionResult
from captum_dexar.app.server import application
from captum_dexar.app.uploads import Limits
from PIL import Image
from tests.app.page_visitor import PageVisitor, served
from tests.app.questions import (
    assert_same_result,
    batch_result,
    failing_at,
    generated_ids,
    picture,
    PROCESSOR,
    question,
    tiny_model,
)
from tests.helpers.untouched import untouched

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")
MODEL = tiny_model()
LIMITS = Limits(image_bytes=50_000, image_pixels=20_000)
NAME = "<b>name</b>"


@pytest.fixture(name="address", scope="module")
def _address() -> Iterator[str]:
    # The model's first pass puts hooks of transformers on it.
    generated_ids(MODEL)
    scenes = [picture(turn) for turn in range(2)]
    with application(
        MODEL, PROCESSOR, model_name=NAME, scenes=scenes, new_tokens=3, limits=LIMITS
    ) as app:
        with served(app) as address:
            yield address


@pytest.fixture(name="visitor")
def _visitor(address: str) -> Iterator[PageVisitor]:
    visitor = PageVisitor(address)
    visitor.values["Question"] = question().prompt
    yield visitor
    visitor.leave()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def downloads(shown: str) -> dict[str, str]:
    """Addresses of the files that the page offers, by name."""
    return {one.rpartition("/")[2]: one for one in re.findall('href="([^"]+)"', shown)}


def result_at(visitor: PageVisitor, url: str, path: Path) -> VLMAttributionResult:
    path.write_bytes(visitor.http.get(url).content)
    return VLMAttributionResult.load(path)


def test_a_question_about_a_scene(visitor: PageVisitor, tmp_path: Path) -> None:
    seen: list[Any] = []
    with untouched(MODEL):
        shown = visitor.press("Ask", seen.append)
    assert "Point at a word" in shown and "<iframe sandbox=" in shown
    assert len([one for one in seen if one["msg"] == "process_generating"]) >= 3
    files = downloads(shown)
    assert list(files) == ["answer.html", "answer.png", "dexar.dexar"]
    result = result_at(visitor, files["dexar.dexar"], tmp_path / "file")
    assert_same_result(result, batch_result(MODEL, "dexar", result.target_ids))
    page = visitor.http.get(files["answer.html"])
    assert page.headers["content-disposition"] == 'attachment; filename="answer.html"'
    assert page.text.startswith("<!DOCTYPE html>") and 'data-word="2"' in page.text
    visitor.values["Method"] = "dexar-rivals"
    visitor.values["Side by side with"] = "attention-gradient"
    files = downloads(visitor.press("Explain the same answer"))
    assert list(files)[2:] == ["dexar-rivals.dexar", "attention-gradient.dexar"]
    other = result_at(visitor, files["dexar-rivals.dexar"], tmp_path / "file")
    assert_same_result(other, batch_result(MODEL, "dexar-rivals", result.target_ids))


def test_two_visitors_at_once(address: str, tmp_path: Path) -> None:
    visitors = [PageVisitor(address) for _ in range(2)]
    shown, paths = ["", ""], ["", ""]

    def ask(turn: int) -> None:
        visitor = visitors[turn]
        visitor.values["Question"] = question().prompt
        paths[turn] = visitor.choose_image("image.png", png(picture(turn + 2)))
        shown[turn] = visitor.press("Ask")

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn, (visitor, other) in enumerate(zip(visitors, reversed(visitors))):
        url = downloads(shown[turn])["dexar.dexar"]
        result = result_at(visitor, url, tmp_path / "file")
        reference = batch_result(MODEL, "dexar", result.target_ids, turn=turn + 2)
        assert_same_result(result, reference)
        file = f"/gradio_api/file={paths[turn]}"
        assert visitor.http.get(file).status_code == 200
        # Neither the file nor its explanation is the other's, by whatever way.
        assert other.http.get(file).status_code == 403
        assert other.http.get(url).status_code == 404
        other.values["Image"] = {"path": paths[turn]}
        assert "Choose it again" in other.press("Ask")
        other.page, own_page = visitor.page, other.page
        assert "somebody else" in other.press("Stop")
        other.page = own_page
    for visitor in visitors:
        visitor.leave()


def test_stop(visitor: PageVisitor, tmp_path: Path) -> None:
    visitor.values["Longest answer, in tokens"] = 200
    states: list[Any] = []

    def on_event(event: Any) -> None:
        states.append(event["msg"])
        # The first one tells that it begins.
        if states.count("process_generating") == 2:
            states.append("stop")
            stopping = PageVisitor.__new__(PageVisitor)
            stopping.__dict__ = {**visitor.__dict__}
            assert "Stopping" in stopping.press("Stop")

    with untouched(MODEL):
        shown = visitor.press("Ask", on_event)
    assert "Stopped." in shown
    result = result_at(visitor, downloads(shown)["dexar.dexar"], tmp_path / "file")
    assert 1 <= len(result.output_tokens) < 200
    assert_same_result(result, batch_result(MODEL, "dexar", result.target_ids))


REFUSED = {
    "not an image that can be read": b"<script>alert(1)</script>",
    "The image is too large: 200 x 200 pixels": png(Image.new("1", (200, 200))),
    "The image file is damaged": png(picture())[:500],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_bad_images(visitor: PageVisitor, reason: str) -> None:
    visitor.choose_image("a<b>.png", REFUSED[reason])
    shown = visitor.press("Ask")
    assert reason in shown and 'role="alert"' in shown and "Traceback" not in shown


def test_large_uploads(visitor: PageVisitor) -> None:
    answer = visitor.upload("large.png", bytes(60_000))
    assert answer.status_code == 413 and "maximum allowed size" in answer.text


BAD_VALUES: dict[str, list[Any]] = {
    "Image": [None, {"path": "/etc/passwd"}, {"path": None}],
    "Question": [None, "", 3, {"a": 1}, "a" * 5000],
    "Method": [None, "", "nothing", 5],
    "Longest answer, in tokens": [None, 0, 10**9, "many"],
}


@pytest.mark.parametrize("label", BAD_VALUES)
def test_values_that_no_browser_sends(visitor: PageVisitor, label: str) -> None:
    for value in BAD_VALUES[label]:
        visitor.values[label] = value
        shown = visitor.press("Ask")
        assert 'role="alert"' in shown and "iframe" not in shown


@pytest.mark.parametrize("number", [1, 2])
def test_a_model_that_fails(visitor: PageVisitor, number: int) -> None:
    with failing_at(MODEL, number, "<script>alert(1)</script>"):
        shown = visitor.press("Ask")
    assert "could not answer or be explained: &lt;script&gt;" in shown
    assert "Traceback" not in shown and "<script" not in shown.split("<iframe")[0]
    assert "Point at a word" in visitor.press("Ask")


def test_the_page_itself(visitor: PageVisitor) -> None:
    config = visitor.config
    assert html.escape(NAME) in str(config) and f"Model: {NAME}" not in str(config)
    assert config["analytics_enabled"] is False
    addresses = re.findall(r"(?:src|href)=\"(?:https?:)?//[^\"]+", visitor.index)
    assert addresses == []
    theme = visitor.http.get("/theme.css").text
    assert re.findall(r"(?:url\(|@import)[\s\"']*(?:https?:)?//", theme) == []
    policy = visitor.http.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_other_names_that_lead_here_get_nothing(visitor: PageVisitor) -> None:
    answer = visitor.http.get("/", headers={"Host": "evil.example"})
    assert answer.status_code == 400


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with application(MODEL, PROCESSOR, model_name=NAME, new_tokens=2) as app:
        with served(app) as address:
            visitor = PageVisitor(address)
            visitor.values["Question"] = question().prompt
            path = Path(visitor.choose_image("own.png", png(picture())))
            assert tmp_path in path.parents and path.is_file()
            for url in downloads(visitor.press("Ask")).values():
                assert visitor.http.get(url).status_code == 200
    assert list(tmp_path.iterdir()) == []
