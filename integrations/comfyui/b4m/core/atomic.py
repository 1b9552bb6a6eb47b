"""Files that are never half-written: atomic writes, flushed before they get their name. Needs no torch."""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from .errors import UserError

PARTIAL = ".b4m-partial-"  # start of every name that is still being written; such files are safe to delete


def reason(error: BaseException) -> str:
    """The error of a library as one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


def sync(path: Path) -> None:
    """Flush one file or directory to the disk, so that a rename after it survives a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows offers no handle to flush a directory through
        return
    # A handle that may write is what Windows asks for; a directory only opens for reading.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Taken(Exception):
    """There is a file of this name."""


def write_atomic(path: Path | str, write: Callable[[Path], None], replace: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, flush it, then rename it to `path`.

    A reader sees the old file or the new one, never a part: whatever `write` raises leaves the old file as it
    was. Missing parent folders are made. Raises UserError where the disk refuses (full, read-only, a folder), and
    Taken where a file is there that is not to be replaced.
    """
    path = Path(path)
    partial = path.parent / f"{PARTIAL}{uuid.uuid4().hex}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        sync(partial)
        os.replace(partial, path) if replace else _rename(partial, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        raise UserError(
            f"{path}: cannot be written ({reason(error)}); free space, or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _rename(partial: Path, path: Path) -> None:
    """Rename, unless there is a file of that name, be it one that another process writes at this moment."""
    try:
        if os.name == "nt":
            os.rename(partial, path)  # which replaces nothing on Windows
        else:
            os.link(partial, path)
    except FileExistsError:
        raise Taken(path) from None
    except OSError:  # a disk without links
        if path.exists():
            raise Taken(path) from None
        os.replace(partial, path)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in `folder`. Only for the one that holds its lock."""
    for partial in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            partial.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, atomically. Raises UserError as `write_atomic` does."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomic(path, write)
