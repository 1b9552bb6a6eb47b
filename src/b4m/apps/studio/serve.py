"""`b4m studio`: lock the project, show its cards at once, then load Gradio and hand the socket over to it."""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.atomic import reason
from ...core.errors import UserError
from ...core.where import EXAMPLES
from . import pictures
from .guard import MAX_BODY, Guard
from .project import Base, Project, opened
from .runner import Runner
from .settings import LOOPBACK, StudioConfig
from .welcome import Welcome

if TYPE_CHECKING:  # they take seconds, in which the project's cards are there already
    from fastapi import FastAPI
    from gradio import Blocks

    from .studio import Studio

READY = "/studio/ready"


def studio(config: StudioConfig) -> None:
    """Serve until Ctrl-C. Raises UserError, Busy; trainings that run then go on."""
    if find_spec("gradio") is None:
        raise UserError('b4m studio needs Gradio: pip install "b4m[studio]"')
    begin_with = Base(
        config.base, _portable(config.base_model), _portable(config.vae), config.mixed_precision
    )
    with opened(Path(config.project), begin_with) as project:
        listening = listen(config.host, config.port)
        port = listening.getsockname()[1]
        uploads = Path(tempfile.mkdtemp(prefix="b4m-studio-"))
        try:
            welcome = Welcome(project, listening, config.host, port)
            print(
                f"b4m studio: http://{_shown(config.host)}:{port}  (Ctrl-C ends it; trainings go on)",
                flush=True,
            )
            if config.host != LOOPBACK:
                print("b4m studio: others on your network can use this page, and its project", flush=True)
            runner = Runner(project)
            runner.start()
            try:
                _serve(project, runner, config, port, listening, welcome, uploads)
            finally:
                runner.close()
        finally:
            listening.close()
            shutil.rmtree(uploads, ignore_errors=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError for an address that is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({reason(error)}); is another studio open? --port 0 "
            "takes any free port"
        ) from error
    return made


def _serve(
    project: Project,
    runner: Runner,
    config: StudioConfig,
    port: int,
    listening: socket.socket,
    welcome: Welcome,
    uploads: Path,
) -> None:
    # Before Gradio is imported, which reads them then.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from .worker import Worker

    worker = Worker(project)
    worker.warm()  # on the other core, while this one loads Gradio
    try:
        import uvicorn

        from .page import build
        from .studio import Studio

        desk = Studio(project, runner, worker)
        app = _routes(project, desk)
        _mount(app, build(desk))
        server = uvicorn.Server(
            uvicorn.Config(
                Guard(app, config.host, port, uploads),
                log_level="warning",
                lifespan="on",
                timeout_graceful_shutdown=1,
                server_header=False,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_no_goodbyes)
        welcome.close()
        threading.Timer(2.0, import_module, ("b4m.data.images",)).start()  # torch, before images are dropped
        server.run(sockets=[listening])
    finally:
        worker.close()


def _routes(project: Project, desk: "Studio") -> "FastAPI":
    """What the page asks for beside Gradio: whether the studio is there, and images."""
    from fastapi import FastAPI, Response

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(READY)
    def ready() -> Response:
        return Response("ready")

    @app.get("/studio/{name:path}")
    def picture(name: str) -> Response:
        found = pictures.answer(project, name, desk.size)
        if found is None:
            return Response("not here", 404)
        headers = {"cache-control": found.cache}
        if found.save_as:
            headers["content-disposition"] = f'attachment; filename="{found.save_as}"'
        return Response(found.data, media_type=found.type, headers=headers)

    return app


def _mount(app: "FastAPI", blocks: "Blocks") -> None:
    """Gradio's page on the application, with nothing of Gradio's beside it."""
    import gradio

    from .theme import CSS, theme

    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=MAX_BODY,
        theme=theme(),
        css=CSS,
        show_error=True,
        allowed_paths=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )


def _no_goodbyes(record: logging.LogRecord) -> bool:
    """Pages that listen when the studio ends are cut off; that is no error."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _portable(model: str | None) -> str | None:
    """A local folder by its whole path, since the project's commands run in the project's folder."""
    local = model is not None and not model.startswith(EXAMPLES) and Path(model).is_dir()
    return str(Path(model).absolute()) if local else model


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
