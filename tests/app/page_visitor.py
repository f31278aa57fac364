"""A visitor of the page without a browser: presses buttons as Gradio's scripts do."""

import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Event = dict[str, Any]
_SECONDS = 120


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application while it is served."""
    import uvicorn

    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


class PageVisitor:
    """An open page in a browser of its own.

    Args:
        address (str): where the page is
    """

    def __init__(self, address: str) -> None:
        import httpx

        # The server closes connections that nobody uses for five seconds. Who uses one
        # in this moment has to ask again, as browsers do.
        limits = httpx.Limits(keepalive_expiry=1)
        self.http = httpx.Client(base_url=address, timeout=_SECONDS, limits=limits)
        self.paths: set[str] = set()
        self._alive: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Loads the page, once more if it is loaded; nothing of it is left then."""
        self.leave()
        self.page, self.paths = secrets.token_hex(8), set()
        self.index = self.http.get("/").text
        self.config = self.http.get("/config").json()
        self.components = {one["id"]: one for one in self.config["components"]}
        self.values = {
            one["props"].get("label"): one["props"].get("value")
            for one in self.config["components"]
        }
        self._alive = self._request(f"GET /gradio_api/heartbeat/{self.page}")
        assert self._alive.recv(12) == b"HTTP/1.1 200"

    def leave(self) -> None:
        """Closes the page."""
        if self._alive is not None:
            self._alive.close()
            self._alive = None

    def _request(self, line: str, *headers: str) -> socket.socket:
        """A request on a connection of its own, which can be cut at any moment."""
        url = self.http.base_url
        connection = socket.create_connection((url.host, url.port), _SECONDS)
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies())
        lines = [
            f"{line} HTTP/1.1",
            f"Host: {url.host}:{url.port}",
            f"Cookie: {cookies}",
            *headers,
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection

    def _cookies(self) -> list[tuple[str, str]]:
        return list(self.http.cookies.items())

    def break_off_upload(
        self, content: bytes, before: Callable[[], object] = lambda: None
    ) -> None:
        """Sends a part of a file, then cuts the connection; calls ``before`` it."""
        start = (
            b'--cut\r\nContent-Disposition: form-data; name="files"; '
            b'filename="image.png"\r\nContent-Type: image/png\r\n\r\n'
        )
        length = len(start) + len(content) + len(b"\r\n--cut--\r\n")
        connection = self._request(
            "POST /gradio_api/upload",
            "Content-Type: multipart/form-data; boundary=cut",
            f"Content-Length: {length}",
        )
        connection.sendall(start + content[: len(content) // 2])
        before()
        connection.close()

    def break_off_download(self, address: str) -> None:
        """Asks for a file, and cuts the connection."""
        connection = self._request(f"GET {address}")
        connection.recv(1)
        connection.close()

    def upload(self, name: str, content: bytes) -> Any:
        """Sends a file; the answer."""
        return self.http.post("/gradio_api/upload", files={"files": (name, content)})

    def choose_image(self, name: str, content: bytes) -> str:
        """Uploads an image and puts it into the page; its path."""
        answer = self.upload(name, content)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        (path,) = answer.json()
        self.values["Image"] = {"path": path, "orig_name": name}
        self.paths.add(path)
        return str(path)

    def press(
        self, button: str, on_event: Callable[[Event], None] | None = None
    ) -> str:
        """Presses a button, and waits for all that follows; the page's texts then.

        Args:
            button (str): what is written on it
            on_event (Callable, optional): called with each event of the queue
        """
        shown = ""
        event: Event | None = self._event(button, "click")
        while event is not None:
            shown += _texts(self._run(event, on_event))
            event = self._after(event)
        return shown

    def press_once(self, button: str) -> str:
        """Presses a button, and does not wait for what follows."""
        return _texts(self._run(self._event(button, "click")))

    def press_unheard(self, button: str) -> None:
        """Presses a button, and does not listen to what follows."""
        event = self._event(button, "click")
        self._run(event)
        following = self._after(event)
        assert following is not None
        self._join(following)

    def change(self, label: str, value: Any) -> str:
        """Changes a component; the page's texts then."""
        self.values[label] = value
        return _texts(self._run(self._event(label, "change")))

    def choose_scene(self, index: int) -> None:
        """Puts one of the scenes into the page."""
        event = self._event("Scenes to choose from", "select")
        (self.values["Image"],) = self._run(
            event, event_data={"index": index, "value": None}
        )

    def _event(self, name: str, kind: str) -> Event:
        """What happens when something is done to a component of a label or text."""
        components = [
            one["id"]
            for one in self.config["components"]
            if one["props"].get("label") == name
            or (one["type"] == "button" and one["props"].get("value") == name)
        ]
        (event,) = [
            one
            for one in self.config["dependencies"]
            if any([component, kind] in one["targets"] for component in components)
        ]
        return dict(event)

    def _after(self, event: Event) -> Event | None:
        following = [
            one
            for one in self.config["dependencies"]
            if one.get("trigger_after") == event["id"]
        ]
        return following[0] if following else None

    def _run(
        self,
        event: Event,
        on_event: Callable[[Event], None] | None = None,
        event_data: Any = None,
    ) -> list[Any]:
        if not event["queue"]:
            body = {**self._body(event), "event_data": event_data}
            answer = self.http.post("/gradio_api/run/predict", json=body)
            assert answer.status_code == 200, answer.text
            return list(answer.json()["data"])
        self._join(event)
        url = f"/gradio_api/queue/data?session_hash={self.page}"
        values: list[Any] | None = None
        with self.http.stream("GET", url) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if on_event is not None:
                    on_event(message)
                if message["msg"] == "process_completed":
                    assert message["success"], message
                    values = message["output"]["data"]
                elif message["msg"] == "close_stream":
                    break
        assert values is not None, "the queue has closed"
        return values

    def _join(self, event: Event) -> None:
        joined = self.http.post("/gradio_api/queue/join", json=self._body(event))
        assert joined.status_code == 200, joined.text

    def _body(self, event: Event) -> dict[str, Any]:
        labels = [self.components[one]["props"].get("label") for one in event["inputs"]]
        return {
            "data": [self.values[label] for label in labels],
            "fn_index": event["id"],
            "session_hash": self.page,
            "trigger_id": None,
        }


def _texts(values: list[Any]) -> str:
    return "\n".join(value for value in values if isinstance(value, str))
