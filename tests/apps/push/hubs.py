"""A stand-in for the hub: the part of its HTTP API that huggingface_hub calls to push a model."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_standin"


class Hub(ThreadingHTTPServer):
    """Repositories in memory. `fails`: a word of a path -> (status, what is wrong with it)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict] = {}
        self.fails: dict[str, tuple[int, str]] = {}
        self.calls: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, private: bool) -> None:
        self.repos[name] = {"private": private, "files": {}}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        hub: Hub = self.server
        path = self.path.partition("?")[0]
        hub.calls.append(path)
        for word, (status, message) in hub.fails.items():
            if word in path:
                return self._send(status, {"error": message, "errors": [{"message": message}]})
        if path == "/api/validate-yaml":  # huggingface_hub asks this without a token too
            return self._send(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if name not in hub.repos:
            return self._send(404, {"error": "Repository not found"})
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return self._send(200, {"files": modes})
        if "/commit/" in path:
            for row in map(json.loads, body.splitlines()):
                if row["key"] == "file":
                    hub.repos[name]["files"][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            return self._send(
                200, {"commitUrl": f"{hub.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        info = {"id": name, "private": hub.repos[name]["private"], "tags": [], "siblings": []}
        return self._send(200, info)

    def _create(self, given: dict) -> None:
        hub: Hub = self.server
        name = f"{given['organization']}/{given['name']}"
        if name in hub.repos:
            return self._send(
                409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
            )
        # As huggingface_hub 2 asks for it, and as earlier ones do.
        hub.add(name, given.get("visibility") == "private" or given.get("private") is True)
        return self._send(200, {"url": f"{hub.url}/{name}", "name": name})

    def _send(self, status: int, answer: dict) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def running():
    hub = Hub()
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
