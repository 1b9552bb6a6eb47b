"""The studio's second process, which has torch and the base model: the page stays quick while it draws."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ...core.errors import UserError
from . import cells, drawing
from .cells import Shot
from .project import Project


class Worker:
    """One process; what is asked of it is done in turn. A process that dies is replaced at the next call."""

    def __init__(self, project: Project) -> None:
        self.project, self._lock = project, threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def ask(self, function: Callable, *arguments: Any) -> Any:
        """The result of a function of `drawing`. Raises UserError, its own or for a process that has died."""
        try:
            return self._submit(function, *arguments).result()
        except BrokenProcessPool:
            with self._lock:
                self._pool = None
            raise UserError(
                "the drawing process ended without a word: most likely the memory is not enough; close other "
                "programs, or choose a smaller size, and try again"
            ) from None

    def warm(self) -> None:
        """Begin to load the base model; a failure is told by what first needs it."""
        base = self.project.base
        self._submit(drawing.warm, base.preset, base.settings())

    def tokens(self, word: str) -> list[str]:
        base = self.project.base
        return self.ask(drawing.tokens, base.preset, base.settings(), word)

    def draw(self, name: str, shot: Shot) -> None:
        """Into its cell."""
        base = self.project.base
        cell = self.project.relative(self.project.cell(name))
        self.ask(
            drawing.draw, base.preset, base.settings(), cell, shot.prompt, shot.seed, dict(shot.settings)
        )

    def draw_all(self, shots: Sequence[Shot]) -> None:
        """Those that are not drawn yet."""
        for name, shot in cells.missing(self.project, shots):
            self.draw(name, shot)

    def close(self) -> None:
        """Whatever it is drawing is given up."""
        with self._lock:
            if self._pool is not None:
                for process in multiprocessing.active_children():
                    process.terminate()
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = None

    def _submit(self, function: Callable, *arguments: Any) -> Future:
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn"), _begin, (str(self.project.folder),)
                )
            return self._pool.submit(function, *arguments)


def _begin(folder: str) -> None:
    """In the new process: it ends with the studio, however that one does."""
    drawing.enter(folder)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(0)), daemon=True).start()
