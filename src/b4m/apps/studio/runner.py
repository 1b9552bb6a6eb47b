"""The queue of trainings: one at a time, the next one when it ends."""

import threading

from ...core.errors import UserError
from . import jobs
from .project import Project

LOOK_EVERY = 1.0  # seconds


class Runner:
    """Starts what waits. It is a thread of the studio; the trainings are not."""

    def __init__(self, project: Project) -> None:
        self.project, self._lock, self._end = project, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="queue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Starts no more; what runs goes on."""
        self._end.set()

    def turn(self) -> None:
        """One look at the queue."""
        with self._lock:
            seen = [jobs.look(self.project, job) for job in jobs.jobs(self.project) if not job.done]
            waiting = [progress.job for progress in seen if progress.state == "queued"]
            if waiting and not any(progress.state == "running" for progress in seen):
                jobs.launch(self.project, waiting[0])

    def stop(self, ident: str) -> None:
        with self._lock:
            jobs.stop(self.project, ident)

    def go_on(self, ident: str) -> None:
        with self._lock:
            jobs.go_on(self.project, ident)

    def _run(self) -> None:
        while not self._end.wait(LOOK_EVERY):
            try:
                self.turn()
            except (UserError, OSError):  # a full disk, say: the next look may find room
                continue
