"""The process a training runs in: signals, determinism, memory, versions, a folder to write to."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .errors import UserError


def check_writable(folder: Path) -> None:
    """Raises UserError unless files can be written to `folder`, which need not exist yet."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"--output-dir {folder}: {nearest} is not a folder that can be written to")


def package_version(package: str) -> str:
    """The installed version, for a file's metadata."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def peak_mb() -> float:
    """Megabytes at most since the start: of the GPU's memory if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@contextmanager
def deterministic() -> Iterator[None]:
    """Same seed, same machine, same file: deterministic kernels while the loop runs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM, noted in the list instead of ending the process in the middle of a step."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {
        n: signal.signal(n, lambda number, frame: received.append(number))
        for n in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def memory_advice() -> Iterator[None]:
    """A GPU that is too small is a matter of settings: raises UserError in place of torch's own error."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the GPU's memory is not enough: try --rows-per-pass 1, --gradient-checkpointing and "
            "--mixed-precision bf16, in this order; the last saved state stays"
        ) from error
