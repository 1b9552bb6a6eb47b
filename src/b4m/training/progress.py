"""Where a run stands on disk: the settings it began with, the state that it goes on from, whether it is done."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..config.training import TrainConfig
from ..methods.protocol import Task
from .resume import check_same, check_steps, made_by, settings_of
from .state import load_state


@dataclass(frozen=True)
class Progress:
    """What an earlier run has left in the folder."""

    folder: Path
    result: Path
    settings: dict  # all that the result is a function of
    step: int = 0  # optimizer steps taken
    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    finished: bool = False

    @property
    def states(self) -> Path:
        return self.folder / "state"


def find(config: TrainConfig, task: Task, processes: int, say: Callable[[str], None]) -> Progress:
    """Raises UserError if the earlier run had other settings, or has taken more steps."""
    folder = Path(config.output_dir)
    settings = settings_of(config, task.facts(), processes)
    fresh = Progress(folder, folder / config.result, settings)
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        found = load_state(fresh.states)
    for warning in damaged:
        say(str(warning.message))
    if found is None:
        return fresh
    step, tensors, meta = found
    check_same(config, meta["settings"], settings)
    if line := check_steps(step, meta["settings"], config, folder):
        say(line)
    finished = step == config.steps and made_by(fresh.result, step)
    return Progress(folder, fresh.result, settings, step, tensors, meta, finished)
