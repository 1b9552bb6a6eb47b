"""The local engine: jobs in this process, or in several of this machine, one for each device."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from ...core.errors import UserError
from ..doing import Outcome, Worker
from ..plan import Names
from ..tasks import Job


class Here:
    """The one worker that needs no other process."""

    def __init__(self, names: Names) -> None:
        self.worker, self.given = Worker(names), list[tuple[int, Job]]()

    def free(self) -> int:
        return not self.given

    def begin(self, number: int, job: Job) -> None:
        self.given.append((number, job))

    def ended(self, seconds: float) -> list[tuple[int, Outcome]]:
        if not self.given:
            time.sleep(seconds)
            return []
        number, job = self.given.pop()
        return [(number, self.worker.do(job))]

    def close(self) -> None:
        pass


class Processes:
    """Workers in processes of their own; one that dies is replaced. logs: folder for what they print."""

    def __init__(self, count: int, names: Names, logs: Path) -> None:
        self.names, self.logs = names, logs
        self.workers = [self._start(place) for place in range(count)]

    def _start(self, place: int) -> "_Process":
        return _Process(place, self.names, self.logs)

    def free(self) -> int:
        return sum(worker.number is None for worker in self.workers)

    def begin(self, number: int, job: Job) -> None:
        worker = next(worker for worker in self.workers if worker.number is None)
        worker.number = number
        with suppress(OSError):  # it has died while it was idle: its pipe will say so
            worker.pipe.send(job)

    def ended(self, seconds: float) -> list[tuple[int, Outcome]]:
        at_work = [(worker, number) for worker in self.workers if (number := worker.number) is not None]
        spoke = wait([worker.pipe for worker, _ in at_work], seconds)
        ended = []
        for worker, number in at_work:
            if worker.pipe not in spoke:
                continue
            ended.append((number, worker.said()))
            worker.number = None
            if ended[-1][1] is Outcome.LOST:
                worker.stop()
                worker.process.join()
                self.workers[worker.place] = self._start(worker.place)
        return ended

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            worker.process.join()


class _Process:
    """One worker's process, and the number of the task that it has."""

    def __init__(self, place: int, names: Names, logs: Path) -> None:
        context = get_context("spawn")
        self.place = place
        self.number: int | None = None
        self.pipe, theirs = context.Pipe()
        log = logs / f"{platform.node()}-{os.getpid()}-{place}.log"
        self.process = context.Process(target=_serve, args=(theirs, _device(place), names, log), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def said(self) -> Outcome:
        """How the task has ended. Raises UserError."""
        try:
            told = self.pipe.recv()
        except (EOFError, OSError):
            return Outcome.LOST
        if isinstance(told, str):
            raise UserError(told)
        return told

    def stop(self) -> None:
        """An idle worker ends with its pipe, one at work is told to stop: a training saves its state first."""
        self.pipe.close()
        if self.number is not None:
            self.process.terminate()


def _device(place: int) -> str | None:
    """The GPU of a worker, as CUDA_VISIBLE_DEVICES names it; workers share GPUs if there are more of them."""
    if not (count := torch.cuda.device_count()):
        return None
    known = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return known[place % count] if known[0] else str(place % count)


def _serve(pipe: Connection, device: str | None, names: Names, log: Path) -> None:
    """What a worker's process does: jobs, until the pipe is closed."""
    if device is None:
        torch.set_num_threads(1)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before anything in this process has asked for a GPU
    with printing_to(log):
        worker = Worker(names)
        while True:
            try:
                job = pipe.recv()
                pipe.send(done_by(worker, job))
            except (EOFError, BrokenPipeError):
                return


def done_by(worker: Worker, job: Job) -> Outcome | str:
    """The outcome, or the line of a user's error: what goes between processes."""
    try:
        return worker.do(job)
    except UserError as error:
        return str(error)


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """What this process and its libraries print goes to the end of a file: the driver alone has the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        yield
