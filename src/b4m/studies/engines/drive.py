"""The driver of every engine: hands out tasks as they can be begun, the most wanted first; one progress for all."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from tqdm import tqdm

from ...core.errors import UserError
from ..doing import Outcome, is_done
from ..tasks import Job, Task, label
from .board import Board

POLL = 5.0  # seconds before a task that another process has in hand is looked at again


class Pool(Protocol):
    """The workers of an engine."""

    def free(self) -> int:
        """How many jobs can be begun now."""
        ...

    def begin(self, number: int, job: Job) -> None:
        """Have a free worker do it; `number` comes back with its outcome."""
        ...

    def ended(self, seconds: float) -> list[tuple[int, Outcome]]:
        """What has ended; waits at most so long for a job to end, or for a worker to come. Raises UserError."""
        ...

    def close(self) -> None:
        """Let the workers go; those in the middle of a job are stopped."""
        ...


def drive(tasks: Sequence[Task], pool: Pool, name: str, retries: int = 0) -> None:
    """Do all tasks that are not done, beside whatever processes do the same; back when none is left.

    A job whose worker is lost is begun again up to `retries` times, by whoever is there. Raises UserError.
    """
    with tqdm(total=len(tasks), desc=name, unit="job") as bar:
        driver = Driver(tasks, pool, retries, bar)
        while driver.board.left:
            driver.hand_out()
            if driver.board.left:
                driver.collect()


class Driver:
    """The state of one `drive`."""

    def __init__(self, tasks: Sequence[Task], pool: Pool, retries: int, bar: tqdm) -> None:
        self.tasks, self.pool, self.retries, self.bar = tasks, pool, retries, bar
        self.board = Board([task.needs for task in tasks])
        self.lost = Counter[int]()

    def hand_out(self) -> None:
        """Give every free worker a job, and pass over what is done."""
        while self.pool.free() and (number := self.board.take(time.monotonic())) is not None:
            if is_done(job := self.tasks[number].job):
                self._finish(number)
            else:
                self.bar.set_postfix_str(label(job), refresh=False)
                self.pool.begin(number, job)

    def collect(self) -> None:
        """Note what has ended. Raises UserError."""
        for number, outcome in self.pool.ended(POLL):
            match outcome:
                case Outcome.DONE:
                    self._finish(number)
                case Outcome.BUSY:
                    self.board.put_back(number, time.monotonic() + POLL)
                case Outcome.LOST:
                    self._lose(number)

    def _finish(self, number: int) -> None:
        self.board.finish(number)
        self.bar.update()

    def _lose(self, number: int) -> None:
        self.lost[number] += 1
        if self.lost[number] > self.retries:
            raise UserError(
                f"{label(self.tasks[number].job)}: its worker was lost {self.lost[number]} times, the last saved state "
                "stays; too little memory is the usual reason: look at the log of the workers, then run the same "
                "command again"
            )
        self.board.put_back(number, time.monotonic())
