"""Who may ask the studio, and for what: this page alone, of this host, the few addresses that it needs."""

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .settings import LOOPBACK

MAX_BODY = 2 * 2**30  # bytes of one request: a large LoRA file
# All that the page needs of Gradio; the rest of its addresses (API pages, proxies, tokens) do not exist here.
NEEDED = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    r"|/(assets|static|svelte)/[\w./@-]+"
    r"|/gradio_api/(queue/(join|data)|heartbeat/\w+|upload|upload_progress|reset|cancel|startup-events)/?"
    r"|/gradio_api/file=.+"
    r"|/studio/[\w./-]+"
)
HEADERS = {
    # Nothing from elsewhere, whatever a caption or a library may ask for; Gradio's own scripts stand in its page.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


def refusal(
    method: str, path: str, headers: Mapping[str, str], host: str, port: int, uploads: Path | None = None
) -> str | None:
    """Why a request is not answered, or None. headers: names in lower case; uploads: where Gradio keeps its files."""
    asked = headers.get("host", "")
    if host == LOOPBACK and asked not in {f"{name}:{port}" for name in (LOOPBACK, "localhost", "[::1]")}:
        return "asked for by another name: open the address that b4m studio printed"
    if (origin := headers.get("origin")) and urlsplit(origin).netloc != asked:
        return "asked by another page"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and (
        method not in ("GET", "HEAD") or headers.get("sec-fetch-mode") != "navigate"
    ):
        return "asked by another page"
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY:
        return f"more than {MAX_BODY:,} bytes"
    if not NEEDED.fullmatch(path):
        return "not here"
    if path.startswith("/gradio_api/file=") and not _uploaded(path.partition("=")[2], uploads):
        return "not here"
    return None


def _uploaded(name: str, uploads: Path | None) -> bool:
    """Whether a file of Gradio's route is one that was uploaded to this studio."""
    path = Path(unquote(name))
    if uploads is None or not path.is_absolute() or ".." in path.parts:
        return False
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(uploads))


class Guard:
    """Around the whole application. What is refused gets one line; every answer carries HEADERS."""

    def __init__(self, app: Asgi, host: str, port: int, uploads: Path) -> None:
        self.app, self.host, self.port, self.uploads = app, host, port, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page uses no websocket
            return None
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        why = refusal(scope["method"], scope["path"], headers, self.host, self.port, self.uploads)
        if why is not None:
            return await _say(send, 404 if why == "not here" else 403, why)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [
                    pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in HEADERS
                ]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        await self.app(scope, receive, guarded)


async def _say(send: Any, status: int, why: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"b4m studio: {why}\n".encode()})
