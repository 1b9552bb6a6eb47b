"""Run a study: every training and every image once, by any number of processes at a time; then its table."""

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from ..backbones.protocol import Backbone
from ..config.fields import InputPath, OutputPath
from ..config.presets import PRESETS
from ..config.sampling import GenerateConfig
from ..core.errors import Busy
from ..core.lock import exclusive
from ..core.storage import sweep, write_text
from ..data.references import references
from ..evaluation.evaluate import score_all
from ..evaluation.manifest import Shot, in_plain_words, write_manifest
from ..evaluation.report import tables
from ..evaluation.settings import EvaluateConfig
from ..sampling.attach import attach
from ..sampling.sample import SAMPLES_AT_ONCE, drawn_with, open_for, sample_with, save_png
from ..training.loop import train
from .file import read_study
from .plan import Drawing, Plan, Training
from .settings import StudyConfig

Job = Training | tuple[Drawing, ...]

POLL = 5.0  # seconds between looks at work that another process has in hand


def _plan(config: StudyConfig) -> Plan:
    return Plan(read_study(config.path, config.subjects), Path(config.output_dir))


def dry_run(config: StudyConfig) -> str:
    """What the study means, in lines: how many trainings and images, how many are done, how many hours are left."""
    plan = _plan(config)
    return "\n".join([plan.study.title, f"rows: {', '.join(plan.study.rows)}", *forecast(plan)])


def forecast(plan: Plan) -> list[str]:
    """What there is to train and to draw, what each costs, and the hours that are left; a line each."""
    left = dict.fromkeys(dict(plan.costs()), 0)
    for training in plan.trainings.values():
        left[training.config.stage] += not training.result.exists()
    left["picture"] = sum(len(drawing.left) for drawing in _drawings(plan))
    each = {**plan.study.seconds, **seconds_of(plan)}
    lines = []
    width = max(8, *map(len, each), *map(len, left))
    for name, count in plan.costs():
        cost = f"{each[name]:.1f} s each" if name in each else "cost not known yet"
        lines.append(f"{name:{width}} {count:6}, {left[name]:6} to do, {cost}")
    if unknown := [name for name, count in left.items() if count and name not in each]:
        total = f"not known before one of each is done ({', '.join(unknown)})"
    else:
        total = f"{sum(count * each.get(name, 0) for name, count in left.items()) / 3600:.1f}"
    return [*lines, f"hours left, one process: {total}"]


def study(config: StudyConfig) -> Path | None:
    """Do what is left of the study and write its results; the folder of these. None: another process writes them.

    Start it as often as there are devices: a training or a pair's images is one process's at a time, and what
    is done is not done again. Raises UserError; SystemExit(128 + n) after signal n, nothing lost.
    """
    plan = _plan(config)
    work(plan, config.name)
    try:
        return _results(config, plan)
    except Busy:
        return None


def work(plan: Plan, name: str) -> None:
    """Do all jobs of the plan that are not done, beside whatever processes do the same; back when none is left."""
    easel = Easel()
    todo = jobs_of(plan)
    with tqdm(total=len(todo), desc=name, unit="job") as bar:
        while todo:
            left = []
            for job in todo:
                if _do(plan, easel, job):
                    bar.update()
                else:
                    left.append(job)
            if len(left) == len(todo):
                time.sleep(POLL)
            todo = left


def jobs_of(plan: Plan) -> list[Job]:
    """Trainings and pairs, in an order in which they can be done.

    All drawings of a pair with the same files are one job: the files are put on the base model once.
    """
    jobs: dict[Any, Any] = {}
    for job in plan.jobs.values():
        if isinstance(job, Training):
            jobs[job.folder] = job
        else:
            pair = (job.training_seed, job.content, job.style, *job.files.items(), *_base(job.config))
            jobs[pair] = (*jobs.get(pair, ()), job)
    return list(jobs.values())


def _do(plan: Plan, easel: "Easel", job: Job) -> bool:
    """Whether the job is done now; not if it waits for another, or another process has it in hand."""
    try:
        if not isinstance(job, Training):
            for drawing in job:
                if drawing.left and not (_made(drawing) and easel.draw(drawing)):
                    return False
            return True
        if not job.result.exists():
            if not all(path.exists() for path in job.needs):
                return False
            plan.names.check(job, plan.made)
            fresh = not (job.folder / "state").exists()
            result = train(job.config)
            if fresh and result.seconds:  # of a run that was interrupted they would say too little
                facts = {"seconds": round(result.seconds, 2), "peak_mb": round(result.peak_mb, 1)}
                write_text(job.folder / "seconds.json", json.dumps(facts, indent=1))
        return True
    except Busy:
        return False


def _made(drawing: Drawing) -> bool:
    return all(Path(path).exists() for path in drawing.files.values())


def _base(config: GenerateConfig) -> tuple[str | None, ...]:
    """What the base model is opened with."""
    return config.base_model, config.vae, config.mixed_precision


class Easel:
    """The base model and the files on it, loaded once for all that is drawn with the same ones."""

    def __init__(self) -> None:
        self.backbone: Backbone | None = None
        self.opened: tuple = ()  # what `backbone` was made of
        self.files: dict[str, str] | None = None  # what is on it

    def draw(self, drawing: Drawing) -> bool:
        """The images of one drawing that are not there yet. -> True. Raises Busy, UserError."""
        config, folder = drawing.config, drawing.folder
        with exclusive(folder):
            sweep(folder)
            if not (left := drawing.left):  # another process has been faster
                return True
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
            write_text(_cost(drawing), json.dumps({"seconds": round(seconds, 3)}, indent=1))
        return True

    def _with(self, drawing: Drawing) -> Backbone:
        """The base model with the drawing's files on it."""
        config, wanted = drawing.config, _base(drawing.config)
        if self.backbone is None or self.opened != wanted:
            self.backbone, self.opened, self.files = open_for(config), wanted, None
        if self.files != drawing.files:
            self.files = None  # should one of them be refused
            attach(self.backbone, config.content_file, config.style_file, config.lora_file, config.strict)
            self.files = drawing.files
        return self.backbone


def _drawings(plan: Plan) -> list[Drawing]:
    """Each set of images once, however many rows show it."""
    return [job for job in plan.jobs.values() if isinstance(job, Drawing)]


def _cost(drawing: Drawing) -> Path:
    """What an image of the drawing has cost."""
    return drawing.folder / "seconds.json"


def seconds_of(plan: Plan) -> dict[str, float]:
    """Median seconds of each stage, and of an image, over what has been done."""
    found: dict[str, list[float]] = {}
    marks = [(t.config.stage, t.folder / "seconds.json") for t in plan.trainings.values()]
    for name, path in [*marks, *(("picture", _cost(drawing)) for drawing in _drawings(plan))]:
        if path.exists():
            found.setdefault(name, []).append(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    return {name: median(values) for name, values in found.items()}


def _results(config: StudyConfig, plan: Plan) -> Path:
    """Score all images as `b4m evaluate` does, and say what each stage cost. Raises Busy, UserError."""
    study, folder = plan.study, Path(config.output_dir) / "results" / config.name
    with exclusive(folder):
        _, scored = score_drawn(plan, folder, baseline=next(iter(study.rows)))
        seconds = seconds_of(plan)
        write_text(
            folder / "seconds.json",
            json.dumps({"seconds": seconds, "threads": torch.get_num_threads()}, indent=1),
        )
        text = (
            f"{study.title}. Command: `{config.command}`\n\n{tables(scored['summary'])}\n{timings(seconds)}"
        )
        write_text(folder / "results.md", text)
    return folder


def score_drawn(
    plan: Plan, folder: Path, baseline: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score all drawings of the plan into `folder`. -> `evaluate.score_all`'s. Raises UserError."""
    write_manifest(folder, shots_of(plan))
    settings = {**PRESETS[plan.study.preset]["evaluate"], **plan.study.evaluate}
    where = {"pictures": InputPath(str(folder)), "output_dir": OutputPath(str(folder))}
    return score_all(EvaluateConfig(**settings, **where, baseline=baseline))


def timings(seconds: dict[str, float]) -> str:
    """Median seconds of each stage, and of the two cases of Tables 3 and 4, as Markdown."""
    cases = {
        "a content": ("content",),
        "a style": ("style",),
        "second stage": ("second",),
        "joint run": ("joint",),
        "a new style for a content at hand (Table 3)": ("style", "second"),
        "a new pair (Table 4)": ("content", "style", "second"),
    }
    rows = [
        f"| {case} | {sum(seconds[stage] for stage in stages):.1f} |"
        for case, stages in cases.items()
        if all(stage in seconds for stage in stages)
    ]
    return "\n".join(["| trained | median seconds |", "| --- | --- |", *rows, ""])


def shots_of(plan: Plan) -> list[Shot]:
    """Every row's images, their prompts in plain words."""
    study = plan.study
    return [
        Shot(
            file=each.file.absolute(),
            prompt=in_plain_words(each.prompt, plan.triggers().values()),
            seed=each.seed,
            content=study.word(drawing.content),
            style=study.word(drawing.style),
            content_dir=references(drawing.content).absolute(),
            style_dir=references(drawing.style).absolute(),
            row=drawing.row,
            training_seed=drawing.training_seed,
            labels=study.labels_of(drawing.content, drawing.style, each.number),
            leaks=study.leaks_of(drawing.content),
        )
        for drawing in plan.drawings
        for each in drawing.asked
    ]
