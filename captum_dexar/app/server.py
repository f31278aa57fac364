"""Serves the page on this machine, and cleans up after it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captum_dexar.app.explainer import Explainer
from captum_dexar.app.files import files_of
from captum_dexar.app.leftovers import Leftovers
from captum_dexar.app.privacy import cookie_of, Privacy
from captum_dexar.app.uploads import Limits
from captum_dexar.app.visitors import Visitors
from PIL import Image
from torch import nn

# Nothing is sent anywhere, and nothing but what is described here is started.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SHARE": "False",
    # Nor are its statistics of all that was asked kept and summed up at every answer.
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**12),
    "OTEL_SDK_DISABLED": "true",
}
_MEDIA_TYPES = {".html": "text/html", ".png": "image/png"}
_SECONDS_TO_CLOSE = 3
LOCAL = ("127.0.0.1", "localhost")


@contextmanager
def application(
    model: nn.Module,
    processor: Any,
    *,
    model_name: str,
    scenes: Sequence[Image.Image] = (),
    new_tokens: int = 25,
    limits: Limits | None = None,
    hosts: Sequence[str] = LOCAL,
) -> Iterator[Any]:
    """The web application. All files are in a folder that is removed at the end.

    Args:
        model (nn.Module): the vision-language model
        processor (ProcessorMixin): its processor
        model_name (str): how the page calls the model
        scenes (sequence of PIL.Image.Image, optional): images to choose from.
            Default: ()
        new_tokens (int, optional): tokens of an answer at first. Default: 25
        limits (Limits, optional): what is accepted. Default: None, the usual
        hosts (sequence of str, optional): names under which the page is reached; a
            page of another name that leads here gets nothing; ``"*"`` allows all.
            Default: LOCAL

    Yields:
        FastAPI
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="captum-dexar-app-") as folder:
        root = Path(folder)
        with _environment({**_ENVIRONMENT, "GRADIO_TEMP_DIR": folder}):
            import gradio
            from captum_dexar.app import interface
            from fastapi import FastAPI
            from starlette.middleware.trustedhost import TrustedHostMiddleware

            visitors = Visitors(Explainer(model, processor))
            settings = interface.Settings(
                model_name=model_name,
                new_tokens=new_tokens,
                scenes=_written(scenes, root / "scenes"),
                limits=limits,
            )
            page = interface.page(settings, visitors)
            leftovers = Leftovers(page, root)
            app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
            _add_downloads(app, visitors)
            gradio.mount_gradio_app(
                app,
                page,
                path="/",
                max_file_size=limits.image_bytes,
                footer_links=[],
                ssr_mode=False,
                enable_monitoring=False,
                # A message, not a traceback.
                show_error=True,
                theme=interface.theme(),
                css=interface.STYLE,
            )
            visitors.publish(path for path in root.rglob("*") if path.is_file())
            app.add_middleware(Privacy, visitors=visitors, leftovers=leftovers)
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
            try:
                yield app
            finally:
                visitors.leave_all()


def serve(app: Any, host: str, port: int, on_start: Callable[[str], object]) -> None:
    """Serves an application until the process is interrupted.

    Args:
        app (FastAPI): the application
        host (str): address to listen at
        port (int): its port; 0 takes a free one
        on_start (Callable): called with the page's address

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    import uvicorn

    with socket.create_server((host, port)) as listening:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_SECONDS_TO_CLOSE,
        )
        server = uvicorn.Server(config)
        on_start(f"http://{host}:{listening.getsockname()[1]}")
        # uvicorn closes the pages, then repeats the signal that ended it.
        with (
            suppress(KeyboardInterrupt),
            _interrupted_by(signal.SIGTERM),
            _little_to_look_at(),
            _quiet_when(lambda: bool(server.should_exit)),
        ):
            server.run(sockets=[listening])


@contextmanager
def _quiet_when(is_ending: Callable[[], bool]) -> Iterator[None]:
    """Within it uvicorn says nothing once it ends.

    Pages that are open then are cut off, each of which it would tell as an error.
    """

    def is_told(_: logging.LogRecord) -> bool:
        return not is_ending()

    log = logging.getLogger("uvicorn.error")
    log.addFilter(is_told)
    try:
        yield
    finally:
        log.removeFilter(is_told)


@contextmanager
def _interrupted_by(number: signal.Signals) -> Iterator[None]:
    """Within it the signal raises KeyboardInterrupt, so that everything is cleaned up.

    Only the main thread can receive signals; in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def _little_to_look_at() -> Iterator[None]:
    """Within it the garbage collector leaves out what is there already.

    These are several hundred thousand objects, of the libraries and the model. With
    them it looks at everything so rarely that requests pile up what they leave.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _add_downloads(app: Any, visitors: Visitors) -> None:
    from fastapi import Request
    from fastapi.responses import PlainTextResponse, Response

    def download(key: str, name: str, request: Any) -> Any:
        session = visitors.session_of(cookie_of(request.scope), key)
        made = None if session is None else files_of(session).get(name)
        if made is None:
            return PlainTextResponse("There is no such file.", status_code=404)
        media_type = _MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")
        return Response(
            made(),
            media_type=media_type,
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )

    # FastAPI reads types at run time, which is not installed with the package.
    download.__annotations__ = {"key": str, "name": str, "request": Request}
    app.add_api_route("/download/{key}/{name}", download, methods=["GET"])


def _written(images: Sequence[Image.Image], folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"scene-{index}.png" for index in range(len(images))]
    for image, path in zip(images, paths):
        image.save(path)
    return paths


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
