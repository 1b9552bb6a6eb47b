"""What every request passes before it is looked at: host, origin, size; and the headers of every answer."""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 4096  # bytes of a form; a vote has fewer than 100
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would also hide the origin from our own check
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        self.app, self.loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = self._refusal(Headers(scope=scope), scope["method"])
        app = PlainTextResponse(*refusal) if refusal else self.app
        await app(scope, receive, _with_headers(send))

    def _refusal(self, headers: Headers, method: str) -> tuple[str, int] | None:
        host = headers.get("host", "")
        if self.loopback and not _is_this_machine(host):
            return "This study is open on its own machine only.", 421  # a foreign name that points here
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return "Not allowed.", 405
        if urlsplit(headers.get("origin", "")).netloc != host or not host:
            return "This request does not come from this study's own page.", 403
        if not headers.get("content-length", "").isdecimal() or int(headers["content-length"]) > MAX_BODY:
            return "Too long.", 413
        return None


def _is_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _with_headers(send: Send) -> Callable[[Any], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
            message["headers"] = headers.raw
        await send(message)

    return sending
