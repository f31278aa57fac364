"""Visitors reach neither each other's sessions nor each other's files."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from captum_dexar.app.explainer import Explainer
from captum_dexar.app.leftovers import Leftovers
from captum_dexar.app.privacy import COOKIE, Privacy
from captum_dexar.app.uploads import VisitorError
from captum_dexar.app.visitors import MOST_FILES, MOST_UNCONNECTED, Visitors
from tests.app.questions import PROCESSOR, question, tiny_model

EXPLAINER = Explainer(tiny_model(), PROCESSOR)


@pytest.fixture(name="visitors")
def _visitors() -> Visitors:
    return Visitors(EXPLAINER)


def written(path: Path) -> Path:
    path.write_text("content")
    return path


def test_every_open_page_has_a_session(visitors: Visitors) -> None:
    assert visitors.arrive("ada", "page1") and visitors.arrive("ada", "page2")
    first, key = visitors.visit("ada", "page1")
    assert visitors.visit("ada", "page1") == (first, key)
    second, other_key = visitors.visit("ada", "page2")
    assert second is not first and other_key != key
    assert visitors.session_of("ada", key) is first
    assert visitors.session_of("bob", key) is None
    assert visitors.session_of(None, key) is None
    assert visitors.session_of("ada", "guess") is None
    assert not visitors.arrive("bob", "page1")
    with pytest.raises(VisitorError, match="somebody else"):
        visitors.visit("bob", "page1")
    for nobody in [(None, "page1"), ("ada", None), ("", "page1")]:
        with pytest.raises(VisitorError, match="cookie"):
            visitors.visit(*nobody)


def test_a_closed_page_is_stopped_and_forgotten(visitors: Visitors) -> None:
    visitors.arrive("ada", "page1")
    visitors.arrive("ada", "page1")
    session, key = visitors.visit("ada", "page1")
    session.ask(question(), ("dexar",))
    # It has another connection.
    visitors.leave("page1")
    assert visitors.session_of("ada", key) is session
    visitors.leave("page1")
    assert [state.phase.value for state in session.run()] == ["running", "stopped"]
    assert visitors.session_of("ada", key) is None
    # What comes too late brings nothing back.
    late, late_key = visitors.visit("ada", "page1")
    assert late is not session and visitors.session_of("ada", late_key) is None
    assert visitors.arrive("bob", "page1")
    visitors.leave("unknown")


def test_files_are_their_owners(visitors: Visitors, tmp_path: Path) -> None:
    own, both, scene = (written(tmp_path / name) for name in ("own", "both", "scene"))
    visitors.publish([scene])
    for visitor, page in [("ada", "page1"), ("ada", "page2"), ("bob", "page3")]:
        visitors.arrive(visitor, page)
    visitors.uploaded("ada", [str(own), str(both)])
    visitors.uploaded("bob", [str(both)])
    assert visitors.may_read("ada", str(own)) and visitors.may_read("bob", str(both))
    assert visitors.may_read("ada", str(tmp_path / "x" / ".." / "own"))
    for visitor in ("bob", None, ""):
        assert not visitors.may_read(visitor, str(own))
        assert visitors.may_read(visitor, str(scene))
    for path in ["/etc/passwd", "", "a\0b", "a" * 10_000, "https://example.org/x"]:
        assert not visitors.may_read("ada", path)
    visitors.leave("page1")
    assert own.exists()
    visitors.leave("page2")
    assert not own.exists() and both.exists()
    assert not visitors.may_read("ada", str(both))
    visitors.leave_all()
    assert not both.exists() and scene.exists()


def test_a_file_goes_with_its_folder(visitors: Visitors, tmp_path: Path) -> None:
    paths = [tmp_path / "hash" / name for name in ("a.png", "b.png")]
    paths[0].parent.mkdir()
    for visitor, path in zip(("ada", "bob"), paths):
        visitors.arrive(visitor, f"page of {visitor}")
        visitors.uploaded(visitor, [str(written(path))])
    visitors.leave("page of ada")
    assert list(paths[0].parent.iterdir()) == paths[1:]
    # The same file may just be coming from somebody else.
    with visitors.uploading():
        visitors.leave("page of bob")
        assert paths[1].exists()
    assert list(tmp_path.iterdir()) == []


def test_the_last_files_of_a_visitor_are_kept(
    visitors: Visitors, tmp_path: Path
) -> None:
    visitors.arrive("ada", "page1")
    visitors.arrive("bob", "page2")
    paths = [written(tmp_path / f"{number}.png") for number in range(MOST_FILES + 3)]
    visitors.uploaded("bob", [str(paths[1])])
    for path in [*paths[:MOST_FILES], paths[0], *paths[MOST_FILES:]]:
        visitors.uploaded("ada", [str(path)])
    gone = paths[1:4]
    for path in paths:
        assert visitors.may_read("ada", str(path)) == (path not in gone)
    # Another visitor still has one of them.
    assert [path for path in paths if not path.exists()] == gone[1:]
    assert visitors.may_read("bob", str(gone[0]))


def test_pages_without_a_connection(visitors: Visitors, tmp_path: Path) -> None:
    """They may go on, but only so many of them are kept."""
    visitors.arrive("ada", "page")
    connected, _ = visitors.visit("ada", "page")
    kept = []
    for number in range(MOST_UNCONNECTED + 5):
        name = f"visitor {number}"
        path = written(tmp_path / name)
        # The page is closed while its file is uploaded, or has lost its connection.
        visitors.uploaded(name, [str(path)])
        if number % 2:
            kept.append((visitors.visit(name, f"page {number}", is_first=True), path))
        elif number >= MOST_UNCONNECTED:
            assert path.exists()
    assert not (tmp_path / "visitor 0").exists()
    assert len(list(tmp_path.iterdir())) <= MOST_UNCONNECTED
    (session, key), path = kept[-1]
    name = path.name
    assert visitors.session_of(name, key) is session and path.exists()
    assert visitors.visit("ada", "page")[0] is connected


def answered(
    visitors: Visitors,
    path: str,
    cookie: str | None = None,
    method: str = "GET",
    body: bytes = b"inner",
    inside: Callable[[], object] = lambda: None,
) -> tuple[int, dict[str, str], bytes]:
    """What the middleware lets through of an application that always answers.

    ``inside`` is called meanwhile.
    """
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        inside()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part, is_last in ((body[:3], False), (body[3:], True)):
            message = {"body": part, "more_body": not is_last}
            await send({"type": "http.response.body", **message})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = (
        [] if cookie is None else [(b"cookie", f"a=b; {COOKIE}={cookie}".encode())]
    )
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    with TemporaryDirectory() as folder:
        leftovers = Leftovers(SimpleNamespace(), Path(folder))
        asyncio.run(Privacy(inner, visitors, leftovers)(scope, receive, send))
    got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], got, b"".join(one["body"] for one in sent[1:])


def test_a_new_browser_gets_a_secret_cookie(visitors: Visitors) -> None:
    cookies = {answered(visitors, "/")[1]["set-cookie"] for _ in range(2)}
    assert len(cookies) == 2
    assert all("HttpOnly; SameSite=Strict" in cookie for cookie in cookies)
    status, headers, body = answered(visitors, "/", "ada")
    assert (status, body) == (200, b"inner") and "set-cookie" not in headers
    assert "default-src 'self'" in headers["content-security-policy"]


def test_uploads_belong_to_who_sent_them(visitors: Visitors, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ('a "b".png', "c%22.png", "ü.png")]
    for path in paths:
        assert answered(visitors, f"/gradio_api/file={path}", "ada")[0] == 403
    sent = answered(
        visitors, "/gradio_api/upload", "ada", "POST", json.dumps(paths).encode()
    )
    assert json.loads(sent[2]) == paths
    for path in paths:
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/file/"):
            assert answered(visitors, route + path, "ada")[0] == 200
            for other in ("bob", None):
                status, _, body = answered(visitors, route + path, other)
                assert status == 403 and body == b"This file is not yours."


def test_nothing_is_fetched_from_other_servers(visitors: Visitors) -> None:
    for route in ("/gradio_api/file=", "/file=", "/gradio_api/proxy=", "/proxy="):
        path = f"{route}https://example.org/a.png"
        assert answered(visitors, path, "ada")[0] == 403


def test_a_page_is_open_as_long_as_its_connection(visitors: Visitors) -> None:
    keys = []

    def look() -> None:
        session, key = visitors.visit("ada", "page1")
        assert visitors.session_of("ada", key) is session
        keys.append(key)

    for route in ("/gradio_api/heartbeat/", "/heartbeat/"):
        assert answered(visitors, f"{route}page1", "ada", inside=look)[0] == 200
        assert visitors.session_of("ada", keys[-1]) is None


def test_links_of_any_characters_belong_to_nobody(visitors: Visitors) -> None:
    visitors.arrive("ada", "page")
    session, key = visitors.visit("ada", "page")
    assert visitors.session_of("ada", key) is session
    for other in ("é", key + "é", "", "\0", key[:-1]):
        assert visitors.session_of("ada", other) is None
    for visitor in ("bob", "é", None):
        assert visitors.session_of(visitor, key) is None
