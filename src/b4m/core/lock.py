"""A folder of one's own: two runs never write to one place."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .atomic import reason, write_text
from .errors import Busy, UserError


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep `folder`, made if need be, to this process. Raises Busy, naming the owner, if another has it.

    The lock is the operating system's: it goes with the process that holds it, however that one ends, so no
    crash leaves a stale one behind; what `owner.json` says is for people.
    """
    owner, lock = folder / "owner.json", FileLock(folder / "run.lock", blocking=False)
    facts = {"process": os.getpid(), "machine": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise Busy(
            f"{folder}: another run is at work in this folder ({_owner(owner)}); wait for it, or give "
            "another --output-dir"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({reason(error)}); choose another folder") from error
    try:
        write_text(owner, json.dumps(facts))
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
            if fresh and os.listdir(folder) == ["run.lock"]:  # a run that was refused leaves nothing
                (folder / "run.lock").unlink()
                folder.rmdir()
        lock.release()


def _owner(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return f"process {facts['process']} on {facts['machine']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has just begun"
