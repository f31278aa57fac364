"""A visitor of the page without a browser: presses buttons as Gradio's scripts do."""

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Event = dict[str, Any]


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

        self.http = httpx.Client(base_url=address, timeout=120)
        self.page = secrets.token_hex(8)
        self.index = self.http.get("/").text
        self.config = self.http.get("/config").json()
        self.components = {one["id"]: one for one in self.config["components"]}
        self.values = {
            one["props"].get("label"): one["props"].get("value")
            for one in self.config["components"]
        }

    def upload(self, name: str, content: bytes) -> Any:
        """Sends a file; the answer."""
        return self.http.post("/gradio_api/upload", files={"files": (name, content)})

    def choose_image(self, name: str, content: bytes) -> str:
        """Uploads an image and puts it into the page; its path."""
        (path,) = self.upload(name, content).json()
        self.values["Image"] = {"path": path, "orig_name": name}
        return str(path)

    def press(
        self, button: str, on_event: Callable[[Event], None] | None = None
    ) -> str:
        """Presses a button, and waits for all that follows; the page's texts then.

        Args:
            button (str): what is written on it
            on_event (Callable, optional): called with each event of the queue
        """
        (component,) = [
            one["id"]
            for one in self.config["components"]
            if one["type"] == "button" and one["props"].get("value") == button
        ]
        (event,) = [
            one
            for one in self.config["dependencies"]
            if [component, "click"] in one["targets"]
        ]
        shown = self._run(event, on_event)
        while following := self._after(event):
            event = following
            shown += self._run(event, on_event)
        return shown

    def _after(self, event: Event) -> Event | None:
        following = [
            one
            for one in self.config["dependencies"]
            if one.get("trigger_after") == event["id"]
        ]
        return following[0] if following else None

    def _run(self, event: Event, on_event: Callable[[Event], None] | None) -> str:
        labels = [self.components[one]["props"].get("label") for one in event["inputs"]]
        body = {
            "data": [self.values[label] for label in labels],
            "fn_index": event["id"],
            "session_hash": self.page,
            "trigger_id": None,
        }
        if not event["queue"]:
            answer = self.http.post("/gradio_api/run/predict", json=body)
            assert answer.status_code == 200, answer.text
            return _texts(answer.json()["data"])
        joined = self.http.post("/gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        url = f"/gradio_api/queue/data?session_hash={self.page}"
        with self.http.stream("GET", url) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if on_event is not None:
                    on_event(message)
                if message["msg"] == "process_completed":
                    assert message["success"], message
                    return _texts(message["output"]["data"])
        raise AssertionError("the queue has closed")


def _texts(values: list[Any]) -> str:
    return "\n".join(value for value in values if isinstance(value, str))
