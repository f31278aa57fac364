"""Keeps visitors apart, and the page to itself."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any

from captum_dexar.app.leftovers import Leftovers
from captum_dexar.app.memory import give_back
from captum_dexar.app.visitors import Visitors

COOKIE = "captum_dexar_visitor"
# The browser loads nothing from elsewhere, whatever the page holds.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; frame-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
# Routes of Gradio that fetch other servers' files.
_REFUSED = ("/proxy=", "/gradio_api/proxy=")
_FILES = ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/")
_UPLOADS = ("/gradio_api/upload", "/upload")
# What a page is connected to as long as it is open.
_PAGES = ("/gradio_api/heartbeat/", "/heartbeat/")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Privacy:
    """ASGI middleware: a cookie for each browser, and nobody else's files.

    It sees pages open and close, and what they leave is removed.

    Args:
        app (App): the application
        visitors (Visitors): who they are, and whose files are whose
        leftovers (Leftovers): what else is removed
    """

    def __init__(self, app: App, visitors: Visitors, leftovers: Leftovers) -> None:
        self._app, self._visitors, self._leftovers = app, visitors, leftovers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        visitor = cookie_of(scope)
        file = _after(_FILES, path)
        refused = path.startswith(_REFUSED) or (
            file is not None and not self._visitors.may_read(visitor, file)
        )
        if refused:
            await _refuse(send)
            return
        new = None
        if visitor is None:
            new = visitor = secrets.token_urlsafe(24)
        send = _with_headers(send, new)
        page = _after(_PAGES, path)
        if path in _UPLOADS and scope["method"] == "POST":
            await self._upload(scope, receive, self._noting_uploads(send, visitor))
        elif page is not None and self._visitors.arrive(visitor, page):
            try:
                await self._app(scope, receive, send)
            finally:
                self._visitors.leave(page)
                await self._leftovers.forget(page)
                await asyncio.to_thread(give_back)
        else:
            await self._app(scope, receive, send)

    async def _upload(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            with self._visitors.uploading():
                await self._app(scope, receive, send)
        except Exception as error:
            from starlette.requests import ClientDisconnect

            # A visitor who has gone is no fault.
            if not isinstance(error, ClientDisconnect):
                raise
        finally:
            if self._visitors.nobody_uploads:
                self._leftovers.remove_unfinished()

    def _noting_uploads(self, send: Send, visitor: str) -> Send:
        status, body = 0, b""

        async def noted(message: Message) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")
            is_last = message["type"].endswith("body") and not message.get("more_body")
            if is_last and status == 200:
                self._visitors.uploaded(visitor, json.loads(body))
            await send(message)

        return noted


def cookie_of(scope: Message) -> str | None:
    """The visitor's cookie, if there is one."""
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                cookies = SimpleCookie(value.decode("latin-1"))
            except CookieError:
                return None
            return cookies[COOKIE].value if COOKIE in cookies else None
    return None


def _after(prefixes: Sequence[str], path: str) -> str | None:
    """What follows a prefix of a path, if it has one of them."""
    for prefix in prefixes:
        if path.startswith(prefix):
            return path[len(prefix) :]
    return None


def _with_headers(send: Send, new_visitor: str | None) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *_HEADERS]
            if new_visitor is not None:
                cookie = f"{COOKIE}={new_visitor}; Path=/; HttpOnly; SameSite=Strict"
                headers.append((b"set-cookie", cookie.encode()))
            message = {**message, "headers": headers}
        await send(message)

    return with_headers


async def _refuse(send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 403,
            "headers": [(b"content-type", b"text/plain"), *_HEADERS],
        }
    )
    await send({"type": "http.response.body", "body": b"This file is not yours."})
