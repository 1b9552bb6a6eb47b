"""What a run leaves beside its result for people: log.jsonl, a line a step, and pictures.json, what it was shown."""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..core.errors import UserError
from ..core.storage import reason, sweep, write_text

LOG, PICTURES, RUN = "log.jsonl", "pictures.json", "wandb-run.txt"


class Logbook:
    """The records of the steps taken, in memory, on disk and in the tracker; only the main process writes."""

    def __init__(self, folder: Path, accelerator: Accelerator, taken: int) -> None:
        """What the log in `folder` says of steps 1 to `taken`: each once, whatever crash cut its end off."""
        self.folder, self.accelerator = folder, accelerator
        self.records = _read(folder / LOG, taken)

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.records if "skipped" not in record]

    @property
    def skipped(self) -> int:
        return sum("skipped" in record for record in self.records)

    def start(self, pictures: Sequence[dict], tracker: str) -> None:
        """Write the log anew, since later lines belong to steps that are taken again; and the images."""
        if not self.accelerator.is_main_process:
            return
        for folder in (self.folder, self.folder / "previews"):
            sweep(folder)
        write_text(self.folder / LOG, "".join(json.dumps(record) + "\n" for record in self.records))
        write_text(self.folder / PICTURES, json.dumps(pictures, indent=1, ensure_ascii=False) + "\n")
        if tracker != "none":
            told = TRACKERS[tracker](self.accelerator, self.folder)
            for record in self.records:
                if record["step"] > told:
                    self._track(record)

    def add(self, record: dict) -> None:
        """One more step. Raises UserError where the disk refuses."""
        self.records.append(record)
        if not self.accelerator.is_main_process:
            return
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.folder / LOG}: cannot be written ({reason(error)}); the last saved state stays: "
                "free space, then run the same command again"
            ) from error
        self._track(record)

    def _track(self, record: dict) -> None:
        values = {key: value for key, value in record.items() if key not in ("step", "skipped")}
        self.accelerator.log(values, step=int(record["step"]))


def _tensorboard(accelerator: Accelerator, folder: Path) -> int:
    """Tell it all anew, since a writer that was killed has lost what it had not flushed. -> the last step told: 0."""
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": 1}})
    return 0


def _wandb(accelerator: Accelerator, folder: Path) -> int:
    """Go on with the run of this folder, whose name is kept in it. -> the last step that Weights & Biases has.

    Raises UserError where it cannot be reached or wants a key.
    """
    path = folder / RUN
    if not path.exists():
        write_text(path, f"{uuid.uuid4().hex}\n")
    run = {
        "id": path.read_text(encoding="utf-8").strip(),
        "resume": "allow",
        "dir": str(folder),
        "name": folder.name,
    }
    try:
        accelerator.init_trackers("b4m", init_kwargs={"wandb": run})
    except Exception as error:  # no key, no network, no such team
        raise UserError(
            f"--tracker wandb: Weights & Biases does not start ({reason(error)}); set WANDB_MODE=offline to keep the "
            "curves in the output folder, or leave it out"
        ) from error
    # A resumed run counts on from the step after its last.
    started: Any = accelerator.get_tracker("wandb", unwrap=True)
    return started.step - 1


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb}


def _read(path: Path, taken: int) -> list[dict]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    records: dict[int, dict] = {}
    for line in lines:
        try:
            record = json.loads(line)
            records[int(record["step"])] = record
        except (ValueError, KeyError, TypeError, RecursionError):  # the line that a crash cut off
            continue
    return [records[step] for step in sorted(records) if 1 <= step <= taken]
