"""Training state on disk: at every instant of a save there is one whole state to return to. No pickle.

A state is a folder "step-000123" with the tensors, a state.json and the sha256 of both in the form that
`sha256sum --check` reads.
"""

import hashlib
import json
import re
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from ..core.errors import UserError, printable
from ..core.storage import PARTIAL, own, reason, sync

TENSORS, META, SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"
_NAME = re.compile(r"step-(\d{6,})(\.old)?")  # .old: being replaced by a new state of the same step


def save_state(folder: Path | str, step: int, tensors: Mapping[str, Tensor], meta: dict) -> None:
    """Save the state of `step` (>= 0), then drop all but it and the one before it.

    `meta` is anything JSON holds (it comes back as JSON does: tuples as lists, keys as strings). States of
    later steps belong to a run that has been given up, and go too. Raises UserError where the disk refuses;
    the states that were there before are then still there.
    """
    folder = Path(folder)
    partial = folder / f"{PARTIAL}{uuid.uuid4().hex}"
    final = folder / f"step-{step:06d}"
    try:
        partial.mkdir(parents=True)
        _write(partial, step, tensors, meta)
        _put(partial, final)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{final}: the training state cannot be written ({reason(error)}); "
            "free space or choose another folder, then run the same command again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _prune(folder, final)


def load_state(folder: Path | str) -> tuple[int, dict[str, Tensor], dict] | None:
    """(step, tensors on the CPU, meta) of the newest whole state; None where nothing was ever saved.

    A damaged state is passed over with a warning, in favour of the one before it. Raises UserError where
    states exist and none is whole: to start over in silence would throw the training away.
    """
    folder = Path(folder)
    states = _states(folder)
    for path in states:
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.warn(
                f"{printable(path)}: damaged training state ({reason(error)}), skipped", stacklevel=2
            )
    if states:
        raise UserError(
            f"{folder}: none of its {len(states)} saved training states is whole; "
            "restore one from a backup, or delete the folder to train from the start"
        )
    return None


def _write(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: dict) -> None:
    save_file({name: own(tensors[name]) for name in sorted(tensors)}, folder / TENSORS)
    (folder / META).write_text(json.dumps({"step": step, "meta": meta}, indent=1) + "\n", encoding="utf-8")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (TENSORS, META)}
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    (folder / SUMS).write_text(sums, encoding="utf-8")
    for path in (folder / TENSORS, folder / META, folder / SUMS, folder):
        sync(path)


def _put(partial: Path, final: Path) -> None:
    """Give a whole state its name. One of the same step steps aside under a name that still loads."""
    if final.exists():
        aside = final.with_name(f"{final.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    partial.rename(final)
    sync(final.parent)


def _prune(folder: Path, final: Path) -> None:
    """Only ever called when `final` is whole and flushed. What cannot be deleted goes with the next save."""
    newest_first = _states(folder)
    older = newest_first[newest_first.index(final) + 1 :]
    kept = [final, *[path for path in older if not path.name.endswith(".old")][:1]]
    for path in (*newest_first, *folder.glob(f"{PARTIAL}*")):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    """Folders named like a state, newest first; one being replaced comes after the one that replaces it."""
    if not folder.is_dir():
        return []
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir()]
    named = [(int(match[1]), match[2] is None, path) for path, match in found if match]
    return [path for *_, path in sorted(named, reverse=True)]


def _read(path: Path) -> tuple[int, dict[str, Tensor], dict]:
    """Read once, verify those bytes, use those bytes."""
    wanted = {}
    for line in (path / SUMS).read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        wanted[name] = digest
    contents = {name: (path / name).read_bytes() for name in (TENSORS, META)}
    for name, data in contents.items():
        if wanted[name] != hashlib.sha256(data).hexdigest():
            raise ValueError(f"{name} is not what was written")
    state = json.loads(contents[META])
    return int(state["step"]), load(contents[TENSORS]), state["meta"]
