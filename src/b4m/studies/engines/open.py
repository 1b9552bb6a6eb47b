"""The engine that the settings name, opened for a plan."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..plan import Names, Plan
from ..settings import EngineConfig
from .drive import Pool
from .local import Here, Processes


@contextmanager
def engine(config: EngineConfig, plan: Plan, most: int) -> Iterator[Pool]:
    """Its workers, at most `most`, which are let go at the end. Raises UserError."""
    with _ends_on_term():
        pool = ENGINES[config.engine](config, plan.root, type(plan.names)(), most)
        try:
            yield pool
        finally:
            pool.close()


def _local(config: EngineConfig, root: Path, names: Names, most: int) -> Pool:
    count = min(config.workers or torch.cuda.device_count() or 1, most)
    return Here(names) if count == 1 else Processes(count, names, root / "logs")


def _ray(config: EngineConfig, root: Path, names: Names, most: int) -> Pool:
    from .on_ray import OnRay

    return OnRay(config, root, names, most)


ENGINES = {"local": _local, "ray": _ray}


@contextmanager
def _ends_on_term() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, its workers let go; a training in it has its own way (`signals`)."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
