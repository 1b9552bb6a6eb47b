"""One job at a time: a training, or the images of a pair; the base model stays loaded from one to the next."""

import json
import time
from enum import Enum
from pathlib import Path

from ..backbones.protocol import Backbone
from ..core.errors import Busy
from ..core.lock import exclusive
from ..core.process import restart_peak
from ..core.storage import sweep, write_text
from ..sampling.sample import SAMPLES_AT_ONCE, attach_for, drawn_with, open_for, sample_with, save_png
from ..training.loop import train
from .plan import Drawing, Names, Training
from .tasks import Job, base_of


class Outcome(Enum):
    """How a job has ended."""

    DONE = "done"
    BUSY = "another process has it in hand, or what it needs cannot be seen yet"
    LOST = "its worker is gone"


def is_done(job: Job) -> bool:
    """Whether everything that the job makes is there."""
    if isinstance(job, Training):
        return job.result.exists()
    return not any(drawing.left for drawing in job)


class Worker:
    """Does jobs, one after the other. names: how what it does is called."""

    def __init__(self, names: Names) -> None:
        self.names, self.easel = names, Easel()

    def do(self, job: Job) -> Outcome:
        """DONE, or BUSY. Raises UserError; SystemExit(128 + n) after signal n, nothing lost."""
        try:
            return self._train(job) if isinstance(job, Training) else self._draw(job)
        except Busy:
            return Outcome.BUSY

    def _draw(self, pair: tuple[Drawing, ...]) -> Outcome:
        for drawing in pair:
            if drawing.left:
                if not all(Path(path).exists() for path in drawing.files.values()):
                    return Outcome.BUSY
                self.easel.draw(drawing)
        return Outcome.DONE

    def _train(self, training: Training) -> Outcome:
        if training.result.exists():
            return Outcome.DONE
        if not all(path.exists() for path in training.needs):
            return Outcome.BUSY
        self.names.check(training)
        fresh = not (training.folder / "state").exists()
        restart_peak()
        result = train(training.config)
        if fresh and result.seconds:  # of a run that was interrupted they would say too little
            facts = {"seconds": round(result.seconds, 2), "peak_mb": round(result.peak_mb, 1)}
            write_text(training.folder / "seconds.json", json.dumps(facts, indent=1))
        return Outcome.DONE


class Easel:
    """The base model and the files on it, loaded once for all that is drawn with the same ones."""

    def __init__(self) -> None:
        self.backbone: Backbone | None = None
        self.opened: tuple = ()  # what `backbone` was made of
        self.files: dict[str, str] | None = None  # what is on it

    def draw(self, drawing: Drawing) -> None:
        """The images of one drawing that are not there yet. Raises Busy, UserError."""
        config, folder = drawing.config, drawing.folder
        with exclusive(folder):
            sweep(folder)
            if not (left := drawing.left):  # another process has been faster
                return
            started = time.perf_counter()
            backbone = self._with(drawing)
            for start in range(0, len(left), SAMPLES_AT_ONCE):
                some = left[start : start + SAMPLES_AT_ONCE]
                pictures = sample_with(
                    backbone, config, [each.prompt for each in some], [each.seed for each in some]
                )
                for each, picture in zip(some, pictures, strict=True):
                    facts = {"prompt": each.prompt, "seed": str(each.seed), **drawn_with(config)}
                    save_png(each.file, picture, facts)
            seconds = (time.perf_counter() - started) / len(left)
            write_text(cost_of(drawing), json.dumps({"seconds": round(seconds, 3)}, indent=1))

    def _with(self, drawing: Drawing) -> Backbone:
        """The base model with the drawing's files on it."""
        config, wanted = drawing.config, base_of(drawing.config)
        if self.backbone is None or self.opened != wanted:
            self.backbone, self.opened, self.files = open_for(config), wanted, None
        if self.files != drawing.files:
            self.files = None  # should one of them be refused
            attach_for(self.backbone, config)
            self.files = drawing.files
        return self.backbone


def cost_of(drawing: Drawing) -> Path:
    """What an image of the drawing has cost."""
    return drawing.folder / "seconds.json"
