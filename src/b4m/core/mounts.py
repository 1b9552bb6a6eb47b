"""Where a folder is mounted from, and whether locks in it hold between machines."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from .errors import UserError

MOUNTS = Path("/proc/self/mountinfo")  # of Linux; elsewhere nothing is known
LOCAL = {"nolock", "local_lock=flock", "local_lock=all"}  # NFS that keeps locks to its own machine


class Mount(NamedTuple):
    """One line of the list of mounts."""

    point: str
    kind: str
    options: frozenset[str]


def mount_of(folder: Path, mounts: Path = MOUNTS) -> Mount | None:
    """The mount that `folder`, which need not exist yet, lies on; None where that cannot be known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place = Path(os.path.realpath(folder))
    above = [mount for line in lines if (mount := _read(line)) and place.is_relative_to(mount.point)]
    return max(above, key=lambda mount: len(mount.point), default=None)


def _read(line: str) -> Mount | None:
    """proc(5): ... mount point, its options, optional fields, -, kind, source, options of the file system."""
    before, dash, after = line.partition(" - ")
    first, last = before.split(), after.split()
    if not dash or len(first) < 6 or len(last) < 3:
        return None
    point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), first[4])
    return Mount(point, last[0], frozenset((*first[5].split(","), *last[2].split(","))))


def check_locks(folder: Path, mounts: Path = MOUNTS) -> None:
    """Raises UserError for a folder in which two machines would not see each other's locks."""
    if (mount := mount_of(folder, mounts)) is None:
        return
    if mount.kind in ("nfs", "nfs4") and (found := sorted(LOCAL & mount.options)):
        raise UserError(
            f"{folder}: mounted from NFS with {found[0]}, so a lock holds on one machine alone and two would do the "
            "same work; mount it without that option"
        )
    if mount.kind == "lustre" and "flock" not in mount.options:
        raise UserError(
            f"{folder}: Lustre mounted without flock, so there are no locks between machines; mount it with -o flock"
        )
