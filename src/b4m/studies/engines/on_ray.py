"""The Ray engine: a worker wherever the cluster has room, each a process that keeps its device and its base model.

What goes through Ray are jobs and outcomes, a few kilobytes each. Images, states and results lie in one folder that all
nodes see at the same place: so a worker that dies has lost nothing that was saved, and another one goes on from there.
"""

import os
import platform
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ...core.errors import Busy, UserError
from ...core.lock import exclusive
from ...core.mounts import check_locks
from ...core.storage import reason
from ..doing import Outcome, Worker
from ..plan import Names
from ..settings import EngineConfig
from ..tasks import Job, label
from .local import done_by

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
except ImportError:
    raise UserError("--engine ray: Ray is not installed: pip install 'b4m[ray]'") from None

LOOK = 2.0  # seconds between looks at how much room the cluster has
REFUSED = 5  # workers in a row that do not come up


class OnRay:
    """Workers on a cluster that grows and shrinks meanwhile. root: the folder that all nodes share."""

    def __init__(self, config: EngineConfig, root: Path, names: Names, most: int) -> None:
        """most: workers that there is any work for. Raises UserError where there is no cluster."""
        check_locks(root)
        self.most, self.names = min(config.workers or most, most), names
        self.probe = (root / f"ray-{uuid.uuid4().hex}").absolute()
        with ExitStack() as opened:
            if not ray.is_initialized():
                _connect(config.address)
                opened.callback(ray.shutdown)
            self.gpus = _share(config.gpus)
            opened.enter_context(exclusive(self.probe))
            self.open = opened.pop_all()
        self.coming: dict[Any, Any] = {}  # promise of `ready` -> worker
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[int, Any]] = {}  # promise of an outcome -> task, worker
        self.refused, self.looked = 0, -LOOK

    def free(self) -> int:
        return len(self.idle)

    def begin(self, number: int, job: Job) -> None:
        worker = self.idle.pop()
        self.busy[worker.do.options(name=label(job)).remote(job)] = number, worker

    def ended(self, seconds: float) -> list[tuple[int, Outcome]]:
        self._grow()
        if not (promises := [*self.coming, *self.busy]):
            time.sleep(LOOK)
            return []
        ray.wait(promises, timeout=min(seconds, LOOK))
        # All at once: there may be thousands.
        ready, _ = ray.wait(promises, num_returns=len(promises), timeout=0)
        return [self._end(promise) for promise in ready if not self._welcome(promise)]

    def _grow(self) -> None:
        """Ask for as many workers as there is room for now."""
        if time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        wanted = min(_room(self.gpus), self.most) - len(self.coming) - len(self.idle) - len(self.busy)
        for _ in range(wanted):
            worker = _FAR.options(num_cpus=1, num_gpus=self.gpus).remote(self.names)
            self.coming[worker.ready.remote(os.getcwd(), self.probe)] = worker

    def _welcome(self, promise: Any) -> bool:
        """Whether it was a new worker's, which is free from now on if it has come up. Raises UserError."""
        if (worker := self.coming.pop(promise, None)) is None:
            return False
        try:
            if line := ray.get(promise):
                raise UserError(line)
            self.idle.append(worker)
            self.refused = 0
        except RayActorError as error:  # its node has gone, or Python fails there
            self.refused += 1
            if self.refused > REFUSED:
                raise UserError(
                    f"--engine ray: no worker comes up ({reason(error)}); is b4m installed on every node?"
                ) from error
        return True

    def _end(self, promise: Any) -> tuple[int, Outcome]:
        """A task and how it has ended. Raises UserError."""
        number, worker = self.busy.pop(promise)
        try:
            told = ray.get(promise)
        except RayTaskError:  # an error of the program
            raise
        # The worker or its node is gone, or out of reach: then it must not go on beside another one.
        except RayError:
            with suppress(RayError):
                ray.kill(worker)
            return number, Outcome.LOST
        if isinstance(told, str):
            raise UserError(told)
        self.idle.append(worker)
        return number, told

    def close(self) -> None:
        """Workers are killed: a training that is stopped so goes on from its last saved state."""
        for worker in [*self.coming.values(), *self.idle, *(worker for _, worker in self.busy.values())]:
            with suppress(RayError):
                ray.kill(worker)
        self.open.close()


class Far:
    """A worker's process on some node."""

    def __init__(self, names: Names) -> None:
        self.worker = Worker(names)

    def ready(self, folder: str, probe: Path) -> str | None:
        """Stand where the driver stands. -> what is wrong with this node, in a line.

        probe: a folder that the driver holds the lock of: here, too, it must be seen, and seen to be locked.
        """
        where = f"--engine ray: node {platform.node()}"
        try:
            os.chdir(folder)
        except OSError as error:
            return f"{where}: cannot go to {folder} ({reason(error)}); start in a folder that all nodes share"
        if not (probe / "owner.json").exists():
            return f"{where}: does not see {probe.parent}; give an --output-dir that all nodes share at the same place"
        try:
            with exclusive(probe):
                return f"{where}: {probe.parent} has no locks between machines; see docs/scale.md for how to mount it"
        except Busy:
            return None
        except UserError as error:
            return f"{where}: {error}"

    def do(self, job: Job) -> Outcome | str:
        """The outcome, or the line of a user's error."""
        return done_by(self.worker, job)


_FAR: Any = ray.remote(Far)


def _connect(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster there ({reason(error)}); start one with ray start --head, or give "
            "its host:port"
        ) from error


def _share(asked: float | None) -> float:
    """GPUs of a worker. Raises UserError where they are asked for and there are none."""
    there = ray.cluster_resources().get("GPU", 0)
    if asked and not there:
        raise UserError(f"--gpus {asked:g}: this Ray cluster has no GPU; leave it out")
    return asked if asked is not None else float(there > 0)


def _room(gpus: float) -> int:
    """Workers that the nodes of now could hold, were they idle."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        int(min(each.get("CPU", 0), each.get("GPU", 0) / gpus + 1e-6 if gpus else float("inf")))
        for each in resources
    )
