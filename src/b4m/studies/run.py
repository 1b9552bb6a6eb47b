"""Run a study: every training and every image once, by any number of processes at a time; then its table."""

import json
import time
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from ..backbones.protocol import Backbone
from ..config.fields import InputPath, OutputPath
from ..config.presets import PRESETS
from ..core.errors import Busy
from ..core.lock import exclusive
from ..core.storage import write_text
from ..core.where import locate
from ..evaluation.evaluate import evaluate
from ..evaluation.manifest import Shot, in_plain_words, write_manifest
from ..evaluation.report import tables
from ..evaluation.settings import EvaluateConfig
from ..sampling.attach import attach
from ..sampling.sample import open_for, sample_with, save_png
from ..training.loop import train
from .file import read_study
from .plan import Drawing, Plan, Training
from .settings import StudyConfig

POLL = 5.0  # seconds between looks at work that another process has in hand


def _plan(config: StudyConfig) -> Plan:
    return Plan(read_study(config.path, config.subjects), Path(config.output_dir))


def dry_run(config: StudyConfig) -> str:
    """What the study means, in lines: how many trainings and images, how many are done, how many hours are left."""
    plan = _plan(config)
    left = dict.fromkeys(dict(plan.costs()), 0)
    for training in plan.trainings.values():
        left[training.config.stage] += not training.result.exists()
    left["picture"] = sum(len(drawing.asked) for drawing in _drawings(plan) if not _done(drawing).exists())
    each = {**plan.study.seconds, **_seconds(plan)}
    lines = [plan.study.title, f"rows: {', '.join(plan.study.rows)}"]
    for name, count in plan.costs():
        cost = f"{each[name]:.1f} s each" if name in each else "cost not known yet"
        lines.append(f"{name:8} {count:6}, {left[name]:6} to do, {cost}")
    if unknown := [name for name, count in left.items() if count and name not in each]:
        total = f"not known before one of each is done ({', '.join(unknown)})"
    else:
        total = f"{sum(count * each.get(name, 0) for name, count in left.items()) / 3600:.1f}"
    return "\n".join([*lines, f"hours left, one process: {total}"])


def study(config: StudyConfig) -> Path | None:
    """Do what is left of the study and write its results; the folder of these. None: another process writes them.

    Start it as often as there are devices: a training or a pair's images is one process's at a time, and what
    is done is not done again. Raises UserError; SystemExit(128 + n) after signal n, nothing lost.
    """
    plan = _plan(config)
    easel = Easel()
    todo = list(plan.jobs.values())
    with tqdm(total=len(todo), desc=config.name, unit="job") as bar:
        while todo:
            left = []
            for job in todo:
                if _do(easel, job):
                    bar.update()
                else:
                    left.append(job)
            if len(left) == len(todo):
                time.sleep(POLL)
            todo = left
    try:
        return _results(config, plan)
    except Busy:
        return None


def _do(easel: "Easel", job: Training | Drawing) -> bool:
    """Whether the job is done now; not if it waits for another, or another process has it in hand."""
    try:
        if isinstance(job, Drawing):
            return _done(job).exists() or (_made(job) and easel.draw(job))
        if not job.result.exists():
            if not all(path.exists() for path in job.needs):
                return False
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


class Easel:
    """The base model, loaded once for all that are drawn on the same one."""

    def __init__(self) -> None:
        self.backbone: Backbone | None = None
        self.opened: tuple = ()  # what `backbone` was made of

    def draw(self, drawing: Drawing) -> bool:
        """The images of one drawing, and a mark that they are whole. -> True. Raises Busy, UserError."""
        config, folder, asked = drawing.config, drawing.folder, drawing.asked
        with exclusive(folder):
            wanted = (config.base_model, config.vae, config.mixed_precision)
            if self.backbone is None or self.opened != wanted:
                self.backbone, self.opened = open_for(config), wanted
            started = time.perf_counter()
            attach(self.backbone, config.content_file, config.style_file, config.lora_file, config.strict)
            pictures = sample_with(
                self.backbone, config, [text for _, text, _ in asked], [seed for *_, seed in asked]
            )
            for (number, text, seed), picture in zip(asked, pictures, strict=True):
                save_png(
                    folder / _name(number, seed),
                    picture,
                    {"prompt": text, "seed": str(seed), **drawing.files},
                )
            seconds = (time.perf_counter() - started) / len(pictures)
            write_text(_done(drawing), json.dumps({"seconds": round(seconds, 3)}, indent=1))
        return True


def _drawings(plan: Plan) -> list[Drawing]:
    """Each set of images once, however many rows show it."""
    return [job for job in plan.jobs.values() if isinstance(job, Drawing)]


def _name(number: int, seed: int) -> str:
    return f"{number:02d}_seed{seed}.png"


def _done(drawing: Drawing) -> Path:
    """Exists once all images of the drawing do."""
    return drawing.folder / "seconds.json"


def _seconds(plan: Plan) -> dict[str, float]:
    """Median seconds of each stage, and of an image, over what has been done."""
    found: dict[str, list[float]] = {}
    marks = [(t.config.stage, t.folder / "seconds.json") for t in plan.trainings.values()]
    for name, path in [*marks, *(("picture", _done(drawing)) for drawing in _drawings(plan))]:
        if path.exists():
            found.setdefault(name, []).append(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    return {name: median(values) for name, values in found.items()}


def _results(config: StudyConfig, plan: Plan) -> Path:
    """Score all images as `b4m evaluate` does, and say what each stage cost. Raises Busy, UserError."""
    study, folder = plan.study, Path(config.output_dir) / "results" / config.name
    with exclusive(folder):
        write_manifest(folder, _shots(plan))
        settings = {**PRESETS[study.preset]["evaluate"], **study.evaluate}
        scored = evaluate(
            EvaluateConfig(
                **settings,
                pictures=InputPath(str(folder)),
                output_dir=OutputPath(str(folder)),
                baseline=next(iter(study.rows)),
            )
        )
        seconds = _seconds(plan)
        write_text(
            folder / "seconds.json",
            json.dumps({"seconds": seconds, "threads": torch.get_num_threads()}, indent=1),
        )
        text = (
            f"{study.title}. Command: `{config.command}`\n\n{tables(scored['summary'])}\n{timings(seconds)}"
        )
        write_text(folder / "results.md", text)
    return folder


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


def _shots(plan: Plan) -> list[Shot]:
    """Every row's images, their prompts in plain words."""
    study = plan.study
    return [
        Shot(
            file=(drawing.folder / _name(number, seed)).absolute(),
            prompt=in_plain_words(text, plan.triggers().values()),
            seed=seed,
            content=study.word(drawing.content),
            style=study.word(drawing.style),
            content_dir=Path(locate(drawing.content)).absolute(),
            style_dir=Path(locate(drawing.style)).absolute(),
            row=drawing.row,
            training_seed=drawing.training_seed,
            labels=study.labels_of(drawing.content, drawing.style, number),
            leaks=study.leaks_of(drawing.content),
        )
        for drawing in plan.drawings
        for number, text, seed in drawing.asked
    ]
