"""The work list of a study or a library: every job once, what it waits for, in the order in which it is wanted."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.sampling import GenerateConfig
from .plan import Drawing, Plan, Training

Job = Training | tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A job, and the places in the list of those whose results it needs: all of them stand before it."""

    job: Job
    needs: tuple[int, ...] = ()


def label(job: Job) -> str:
    """What a job is called where people look at it."""
    return job.folder.name if isinstance(job, Training) else job[0].folder.name


def work_list(plan: Plan) -> list[Task]:
    """All jobs of the plan, the first full pairs first: among those that can be begun the first is the most wanted.

    The table of pairs grows as a square: k contents and k styles give k x k pairs after 2 k trainings, where going
    through it line by line would train all styles for the first content.
    """
    tasks: list[Task] = []
    places: dict[str, int] = {}  # folder of a training -> its place

    def places_of(files: Iterable[Path | str]) -> tuple[int, ...]:
        folders = dict.fromkeys(os.path.dirname(file) for file in files)
        return tuple(place(plan.jobs[folder]) for folder in folders if folder in plan.jobs)

    def place(training: Any) -> int:
        folder = training.config.output_dir
        if folder not in places:
            needs = places_of(training.needs)
            places[folder] = len(tasks)
            tasks.append(Task(training, needs))
        return places[folder]

    for pair in sorted(pairs_of(plan), key=_Wanted(plan)):
        needs = places_of(pair[0].files.values())
        tasks.append(Task(pair, needs))
    return tasks


def pairs_of(plan: Plan) -> list[tuple[Drawing, ...]]:
    """All drawings of a pair with the same files are one job: the files are put on the base model once."""
    pairs: dict[tuple, list[Drawing]] = {}
    for drawing in drawings_of(plan):
        key = (
            drawing.training_seed,
            drawing.content,
            drawing.style,
            *drawing.files.items(),
            *base_of(drawing.config),
        )
        pairs.setdefault(key, []).append(drawing)
    return [tuple(pair) for pair in pairs.values()]


def drawings_of(plan: Plan) -> Iterator[Drawing]:
    """Each set of images once, however many rows show it."""
    return (job for job in plan.jobs.values() if isinstance(job, Drawing))


def base_of(config: GenerateConfig) -> tuple[str | None, ...]:
    """What the base model is opened with."""
    return config.base_model, config.vae, config.mixed_precision, config.base_lora


class _Wanted:
    """Sorts pairs: one training seed whole first, then one row, then squares from the corner of the table."""

    def __init__(self, plan: Plan) -> None:
        study = plan.study
        self.seeds, self.rows, self.contents, self.styles = (
            {name: number for number, name in reversed([*enumerate(names)])}
            for names in (study.training_seeds, study.rows, study.contents, study.styles)
        )

    def __call__(self, pair: tuple[Drawing, ...]) -> tuple[int, ...]:
        first = pair[0]
        down, across = self.contents[first.content], self.styles[first.style]
        shell = max(down, across)
        return (
            self.seeds[first.training_seed],
            self.rows[first.row],
            shell,
            int(across == shell),
            down,
            across,
        )
