"""Serve a study until it is stopped: one server for one folder, its address and links printed."""

import socket
import sys
from pathlib import Path
from typing import Any

from ...core.errors import UserError, printable
from ...core.lock import exclusive
from ...core.storage import reason
from .access import access, invite
from .questions import VOTES, read_study
from .settings import ServeConfig
from .store import Store

MISSING = "b4m vote serve needs a small web server: pip install 'b4m[vote]'"
MAX_CONNECTIONS = 1000


def serve(config: ServeConfig) -> None:
    """Serve until Ctrl-C. Raises UserError: no such study, its port taken, another server at work on it."""
    folder = Path(config.study)
    study, way = read_study(folder), access(config)
    try:
        import uvicorn  # noqa: F401 (whether it is there)

        from .server import Booth
    except ImportError as error:
        raise UserError(f"{MISSING} ({reason(error)})") from error
    with exclusive(folder), _listen(config) as listening:
        store = Store(folder / VOTES, study.key)
        try:
            address = _address(listening)
            print(
                f"{printable(study.title)}: {study.length} questions for each voter, at {address}/",
                flush=True,
            )
            if config.links:
                for token in invite(folder, store, config.links):
                    print(f"{address}/in/{token}")
            print("Ctrl-C stops it; the same command goes on.", flush=True)
            booth = Booth(study, folder, store, way, config.loopback)
            web_server(booth.app).run(sockets=[listening])
        finally:
            print(f"{len(store.votes())} votes of {len(store.voters())} voters", file=sys.stderr)
            store.close()


def web_server(app: Any) -> Any:
    """The uvicorn server that serves an ASGI application: quiet, and writing down no address of a voter."""
    import uvicorn

    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http="h11",
        ws="none",
        lifespan="off",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(settings)


def _listen(config: ServeConfig) -> socket.socket:
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((config.host, config.port))
        listening.listen(512)
    except OSError as error:
        raise UserError(
            f"--host {config.host} --port {config.port}: cannot listen there ({reason(error)}); give another"
        ) from error
    return listening


def _address(listening: socket.socket) -> str:
    """What to type into a browser; for all networks, this machine's name."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
