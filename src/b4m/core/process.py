"""The process a training runs in: signals, determinism, memory, versions, a folder to write to."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .errors import UserError


def check_writable(folder: Path) -> None:
    """Raises UserError unless files can be written to `folder`, which need not exist yet."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"--output-dir {folder}: {nearest} is not a folder that can be written to")


def package_version(package: str) -> str:
    """The installed version, for a file's metadata."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def peak_mb() -> float:
    """Megabytes at most since the start or `restart_peak`: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def restart_peak() -> None:
    """Let `peak_mb` speak of what comes now. On a CPU Linux alone can forget what was."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with suppress(OSError):  # where /proc may not be written to
            Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def deterministic() -> Iterator[None]:
    """Same seed, same machine, same file: deterministic kernels while the loop runs.

    torch would fill all memory that it makes as well, so that reading what nobody has written gives the same numbers:
    a kernel more for each norm and each attention, of which nothing is read before it is written.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


SAME_SIGNAL = 0.5  # seconds: a terminal and a launcher pass the same Ctrl-C on, one after the other


@contextmanager
def signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM, noted in the list instead of ending the process in the middle of a step.

    A second one ends the process at once, with status 128 + n; all that is written then is written atomically.
    """
    received: list[int] = []
    first = 0.0

    def note(number: int, frame: object) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            os.write(2, b"\nb4m: finishing this step, then saving it; the same again ends at once\n")
        elif time.monotonic() - first > SAME_SIGNAL:
            os._exit(128 + number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory")  # the second is NCCL's, too
CONNECTION = ("gloo", "NCCL")  # what joins processes names itself


@contextmanager
def advice() -> Iterator[None]:
    """For what is not the program's fault, UserError in place of torch's: too little memory, another process gone."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = " ".join(str(error).split())
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in text for word in NO_MEMORY):
            raise UserError(
                "the memory is not enough: try --rows-per-pass 1, --gradient-checkpointing and "
                "--mixed-precision bf16, in this order; the last saved state stays"
            ) from error
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and any(word in text for word in CONNECTION):
            raise UserError(
                "another process of this run has ended and says why itself, or cannot be reached; the last saved "
                f"state stays ({text[:200]})"
            ) from error
        raise
