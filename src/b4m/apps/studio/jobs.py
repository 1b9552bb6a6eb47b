"""Trainings as processes of their own: started by the public command, found again, stopped, continued, told apart.

What a job is stands in the concept's job.json; what became of it is seen in its process, its log and its folder, so
that neither a closed page nor a studio that was killed loses it.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psutil

from ...core.atomic import write_text
from ...core.errors import UserError
from .command import PROGRAM
from .header import read_header
from .library import file_of, get
from .plain import without_paths
from .project import Project, read_json

JOB, LOG = "job.json", "job.log"
COMMANDS = ("train-content", "train-style", "second-stage")  # that a job may be
State = Literal["queued", "running", "done", "stopped", "failed", "crashed"]
STALE = 120.0  # seconds without a step, at least
SAME_PROCESS = 1.0  # seconds by which two readings of a process's start may differ
POINTS = 120  # of a loss curve


@dataclass(frozen=True)
class Job:
    """One training. arguments: of `b4m`, run in the project's folder."""

    ident: str  # of its concept
    arguments: tuple[str, ...]
    steps: int
    queued: float  # seconds since 1970: the queue's order
    process: int | None = None
    process_started: float = 0.0
    launched: float = 0.0
    from_step: int = 0  # that this process began at
    stop_asked: bool = False
    done: bool = False


@dataclass(frozen=True)
class Progress:
    """What is to be seen of a job now."""

    job: Job
    state: State
    step: int = 0
    losses: tuple[float, ...] = ()
    seconds_left: float | None = None
    previews: tuple[int, ...] = ()  # the steps they were drawn after
    message: str = ""  # what is wrong, or worth knowing

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def may_continue(self) -> bool:
        return self.state in ("stopped", "failed", "crashed")


_children: dict[int, subprocess.Popen] = {}  # started by this studio: to be waited for when they end


def put(project: Project, ident: str, arguments: Sequence[str], steps: int) -> Job:
    """A new job, at the end of the queue."""
    job = Job(ident, tuple(arguments), steps, queued=time.time())
    _save(project, job)
    return job


def load(project: Project, ident: str) -> Job | None:
    """None for a concept that has no training of its own. Raises UserError for a damaged job.json."""
    path = project.concept(ident) / JOB
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        known: dict[str, Any] = {key: found[key] for key in Job.__dataclass_fields__ if key in found}
        known |= {"ident": ident, "arguments": tuple(map(str, known["arguments"]))}
        _check_arguments(known["arguments"], project.relative(project.concept(ident)))
        return Job(**known)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{ident}/{JOB}: damaged; delete the concept and teach it again") from error


def jobs(project: Project) -> list[Job]:
    """All of them, in the queue's order; damaged ones are left out."""
    found = []
    for path in (project.folder / "concepts").glob(f"*/{JOB}"):
        try:
            if (job := load(project, path.parent.name)) is not None:
                found.append(job)
        except UserError:
            continue
    return sorted(found, key=lambda job: job.queued)


def launch(project: Project, job: Job) -> Job:
    """Start its process. It belongs to no page and to no studio: both may end."""
    folder = project.concept(job.ident)
    from_step = _saved_step(folder)
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    with (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            [*PROGRAM, *job.arguments],
            cwd=project.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    _children[child.pid] = child
    started = replace(
        job,
        process=child.pid,
        process_started=_started(child.pid),
        launched=time.time(),
        from_step=from_step,
        stop_asked=False,
    )
    _save(project, started)
    return started


def stop(project: Project, ident: str) -> None:
    """Ask it to finish its step and to save it; one that waits leaves the queue. Nothing where it has ended."""
    job = load(project, ident)
    if job is None or look(project, job).ended:
        return
    _save(project, replace(job, stop_asked=True))
    if job.process is not None:
        os.kill(job.process, signal.SIGINT)


def go_on(project: Project, ident: str) -> Job:
    """Into the queue again: the same command continues from the last saved state. Raises UserError."""
    job = load(project, ident)
    if job is None or not look(project, job).may_continue:
        raise UserError("this training is not one that can be continued: it runs, waits, or is done")
    again = replace(job, queued=time.time(), process=None, stop_asked=False)
    _save(project, again)
    return again


def look(project: Project, job: Job) -> Progress:
    """Where a job stands."""
    folder = project.concept(job.ident)
    training = folder / "training"
    losses, step = _read_log(training / "log.jsonl")
    previews = tuple(sorted(map(_step_of, (training / "previews").glob("step-*.png"))))
    seen = Progress(job, "queued", min(step, job.steps), _thinned(losses), previews=previews)
    if job.done:
        return replace(seen, state="done", step=job.steps)
    if job.process is None:
        return replace(seen, state="stopped" if job.stop_asked else "queued")
    if _alive(job):
        return replace(seen, state="running", **_pace(job, seen.step, training))
    if _finished(project, job):
        _save(project, replace(job, done=True))
        return replace(seen, state="done", step=job.steps)
    return replace(seen, **_ended(project, job, folder))


def _check_arguments(given: Sequence[str], folder: str) -> None:
    """Raises ValueError for what no studio has put there: a project may come from a stranger, and its queue is run."""
    if given[0] not in COMMANDS or given[list(given).index("--output-dir") + 1] != f"{folder}/training":
        raise ValueError("no training of this concept")
    if given.count("--output-dir") != 1 or "--config" in given:
        raise ValueError("no training of this concept")
    flag = ""
    for word in given[1:]:
        flag = word if word.startswith("--") else flag
        paths = flag.endswith(("-dir", "-dirs", "-file"))
        if paths and word != flag and (Path(word).is_absolute() or ".." in Path(word).parts):
            raise ValueError(f"{flag} leads out of the project")


def _pace(job: Job, step: int, training: Path) -> dict:
    """seconds_left, and a message where nothing has moved for long."""
    log, shown = training / "log.jsonl", training / "pictures.json"
    if step <= job.from_step or not shown.is_file() or shown.stat().st_mtime < job.launched - 1:
        quiet = time.time() - job.launched
        slow = f"no step yet after {quiet:.0f} s" if quiet > 5 * STALE else ""
        return {"message": slow or "loading the base model"}
    begun, last = shown.stat().st_mtime, log.stat().st_mtime
    a_step = max(0.0, last - begun) / (step - job.from_step)
    quiet = time.time() - last
    if quiet > max(STALE, 20 * a_step):
        return {"message": f"no step for {quiet:.0f} s: it may hang; stop it, then continue it"}
    return {"seconds_left": a_step * (job.steps - step)}


def _ended(project: Project, job: Job, folder: Path) -> dict:
    """Why a process that is gone, without a result, has ended."""
    text = _tail(folder / LOG)
    if errors := [line for line in text.splitlines() if line.startswith("b4m: error:")]:
        told = errors[-1].removeprefix("b4m: error:").strip()
        return {"state": "failed", "message": without_paths(told, project.folder)}
    if job.stop_asked or "the same command continues" in text:
        return {"state": "stopped"}
    saved = _saved_step(folder)
    return {
        "state": "crashed",
        "message": f"its process ended without a word (killed, or the machine went down); step {saved} is saved",
    }


def _finished(project: Project, job: Job) -> bool:
    """Whether the result is there and has all its steps."""
    path = file_of(project, get(project, job.ident))
    try:
        return read_header(path).get("b4m.steps") == str(job.steps)
    except UserError:
        return False


def _alive(job: Job) -> bool:
    """The process with this number, if it is still the one that was started."""
    if (child := _children.get(job.process or 0)) is not None and child.poll() is not None:
        return False
    try:
        process = psutil.Process(job.process)
        same = abs(process.create_time() - job.process_started) < SAME_PROCESS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _started(process: int) -> float:
    try:
        return psutil.Process(process).create_time()
    except psutil.Error:  # it has ended already; its log says why
        return 0.0


def _read_log(path: Path) -> tuple[list[float], int]:
    """Losses, and the last step; a line that is being written is left for the next look."""
    losses, step = [], 0
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [], 0
    for line in text.splitlines():
        try:
            record = json.loads(line)
            step = int(record["step"])
            losses.append(float(record["loss"]))
        except (ValueError, KeyError, TypeError):
            continue
    return losses, step


def _thinned(losses: list[float]) -> tuple[float, ...]:
    """At most POINTS values: the medians of equal parts."""
    size = -(-len(losses) // POINTS) or 1
    return tuple(median(losses[start : start + size]) for start in range(0, len(losses), size))


def _saved_step(folder: Path) -> int:
    return max(map(_step_of, (folder / "training" / "state").glob("step-*")), default=0)


def _step_of(path: Path) -> int:
    match = re.match(r"step-(\d+)", path.name)
    return int(match[1]) if match else 0


def _tail(path: Path, size: int = 8000) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", errors="replace").replace("\r", "\n")
    except OSError:
        return ""


def _save(project: Project, job: Job) -> None:
    values = {key: value for key, value in asdict(job).items() if key != "ident"}
    write_text(project.concept(job.ident) / JOB, json.dumps(values, indent=1) + "\n")
