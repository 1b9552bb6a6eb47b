"""The first page: the project's cards, from the first moment, until Gradio has been loaded and takes over."""

import threading
from html import escape
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import socket
from urllib.parse import urlsplit

from . import guard, html, library, pictures, theme
from .plain import name_of_model
from .project import Project

# Asks until the studio itself answers, then shows it.
WAIT = """<script>
setInterval(async () => {
  try { if (await (await fetch('/studio/ready')).text() === 'ready') location.reload(); } catch {}
}, 250);
</script>"""


def page(project: Project) -> str:
    """Its HTML: whole without any script, and without Gradio."""
    found = library.concepts(project)
    shown = html.cards(project, found[:24], {}, live=False)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>B4M studio</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{theme.CSS}</style></head>'
        '<body class="gradio-container"><main style="padding:0 16px">'
        f"{masthead(project)}{html.note('The tools are on their way; your library is here already.', 'busy')}"
        f"{shown}</main>{WAIT}</body></html>"
    )


def masthead(project: Project) -> str:
    about = f"{escape(project.folder.name)} · {escape(name_of_model(project.base.model))}"
    return (
        '<header class="masthead"><span class="logo" aria-hidden="true"><i></i><i></i><i></i><i></i></span>'
        f"<h1>B4M studio</h1><p>{about}</p></header>"
    )


class Welcome:
    """Answers on a socket that listens, until `close`: then whoever is next may."""

    def __init__(self, project: Project, listening: socket, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = (
                "HTTP/1.0"  # a connection an answer: none is left when the next server takes over
            )

            def do_GET(self) -> None:
                status, kind, data = _answer(project, self.path, dict(self.headers), host, port)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("cache-control", "no-store")
                for name, value in guard.HEADERS.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the terminal is for what matters."""

        self._server = HTTPServer(listening.getsockname(), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


def _answer(project: Project, address: str, headers: dict, host: str, port: int) -> tuple[int, str, bytes]:
    path, lower = urlsplit(address).path, {name.lower(): value for name, value in headers.items()}
    text = "text/plain; charset=utf-8"
    if why := guard.refusal("GET", path, lower, host, port):
        return (404 if why == "not here" else 403), text, f"b4m studio: {why}\n".encode()
    if path == "/":
        return 200, "text/html; charset=utf-8", page(project).encode()
    if path.startswith("/studio/") and path != "/studio/ready":
        if (found := pictures.answer(project, path.removeprefix("/studio/"))) and not found.save_as:
            return 200, found.type, found.data
        return 404, text, b"b4m studio: not here\n"
    return 200, text, b"loading"
