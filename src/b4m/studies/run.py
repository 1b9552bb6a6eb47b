"""Run a study: every training and every image once, by any number of processes at a time; then its table."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..config.fields import InputPath, OutputPath
from ..config.presets import PRESETS
from ..core.errors import Busy
from ..core.lock import exclusive
from ..core.storage import write_atomic, write_text
from ..data.references import references
from ..evaluation.evaluate import FEATURES, score_all
from ..evaluation.manifest import Shot, in_plain_words, write_manifest
from ..evaluation.report import tables
from ..evaluation.settings import EvaluateConfig
from .costs import costs_of, costs_table, seconds_of
from .engines.drive import drive
from .engines.open import engine
from .engines.slurm import write_slurm
from .file import read_study
from .frontier import frontier
from .plan import Plan
from .settings import EngineConfig, StudyConfig
from .tasks import drawings_of, work_list

NAMED = 4  # kinds of work that a line names


def _plan(config: StudyConfig) -> Plan:
    return Plan(read_study(config.path, config.subjects), Path(config.output_dir))


def dry_run(config: StudyConfig) -> str:
    """What the study means, in lines: how many trainings and images, how many are done, how many hours are left."""
    plan = _plan(config)
    return "\n".join([plan.study.title, f"rows: {', '.join(plan.study.rows)}", *forecast(plan)])


def slurm(config: StudyConfig, folder: str) -> Path:
    """The array job, in `folder`, that does the study. Raises UserError."""
    return write_slurm(config, _plan(config).root, folder)


def forecast(plan: Plan) -> list[str]:
    """What there is to train and to draw, what each costs, and the hours that are left; a line each."""
    left = dict.fromkeys(dict(plan.costs()), 0)
    for training in plan.trainings.values():
        left[training.config.stage] += not training.result.exists()
    left["picture"] = sum(len(drawing.left) for drawing in drawings_of(plan))
    each = {**plan.study.seconds, **seconds_of(plan)}
    lines = []
    width = max(8, *map(len, each), *map(len, left))
    for name, count in plan.costs():
        cost = f"{each[name]:.1f} s each" if name in each else "cost not known yet"
        lines.append(f"{name:{width}} {count:6}, {left[name]:6} to do, {cost}")
    hours = sum(count * each.get(name, 0) for name, count in left.items()) / 3600
    unknown = {name: count for name, count in left.items() if count and name not in each}
    return [*lines, f"hours left, one process: {hours:.1f}{_uncounted(unknown)}"]


def _uncounted(left: Mapping[str, int]) -> str:
    """What the hours leave out, if anything: how many jobs of how many kinds, by name where they are few."""
    if not left:
        return ""
    named = [f"{count} {name}" for name, count in left.items()]
    few = named if len(named) <= NAMED else [*named[: NAMED - 1], f"{len(named) - NAMED + 1} other kinds"]
    return f", and {sum(left.values())} jobs whose cost is not known yet: {', '.join(few)}"


def study(config: StudyConfig) -> Path | None:
    """Do what is left of the study and write its results; the folder of these. None: another process writes them.

    Started more than once, processes share the work: a training or a pair's images is one process's at a time, and
    what is done is not done again. Raises UserError; SystemExit(128 + n) after signal n, nothing lost.
    """
    plan = _plan(config)
    work(plan, config, config.name)
    try:
        return _results(config, plan)
    except Busy:
        return None


def work(plan: Plan, config: EngineConfig, name: str) -> None:
    """Do all jobs of the plan that are not done, beside whatever processes do the same; back when none is left."""
    tasks = work_list(plan)
    with engine(config, plan, len(tasks)) as pool:
        drive(tasks, pool, name, config.retries)


def _results(config: StudyConfig, plan: Plan) -> Path:
    """Score all images as `b4m evaluate` does, and say what each stage cost. Raises Busy, UserError."""
    study, folder = plan.study, Path(config.output_dir) / "results" / config.name
    with exclusive(folder):
        _, scored = score_drawn(plan, folder, baseline=next(iter(study.rows)))
        costs = costs_of(plan)
        facts = {
            "seconds": seconds_of(plan),
            "threads": torch.get_num_threads(),
            "rows": {row: asdict(cost) for row, cost in costs.items()},
        }
        write_text(folder / "seconds.json", json.dumps(facts, indent=1))
        text = (
            f"{study.title}. Command: `{config.command}`\n\n{tables(scored['summary'])}\n{costs_table(costs)}"
        )
        write_text(folder / "results.md", text)
        if study.curves:
            drawn = frontier(scored["summary"], study.curves)
            write_atomic(folder / "frontier.png", lambda path: drawn.savefig(path, dpi=120))
    return folder


def score_drawn(
    plan: Plan, folder: Path, baseline: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score all drawings of the plan into `folder`. -> `evaluate.score_all`'s. Raises UserError.

    What models saw in an image is kept beside the images, for every study that shows it.
    """
    write_manifest(folder, shots_of(plan))
    settings: dict[str, Any] = {
        "baseline": baseline,
        **PRESETS[plan.study.preset]["evaluate"],
        **plan.study.evaluate,
    }
    where = {"pictures": InputPath(str(folder)), "output_dir": OutputPath(str(folder))}
    return score_all(EvaluateConfig(**settings, **where), plan.root / FEATURES)


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
