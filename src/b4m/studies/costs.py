"""What a study's work has cost: each stage, and each row in the cases of the paper's Tables 3 and 4."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..config.training import ShowsContent, ShowsStyle
from .doing import cost_of
from .plan import Drawing, Plan, Training
from .tasks import drawings_of

# What is new to somebody who asks for images of a pair -> whose trainings that needs.
CASES = {
    "a new style for a content at hand (Table 3)": ({"style"}, {"content", "style"}),
    "a new content and a new style (Table 4)": ({"content"}, {"style"}, {"content", "style"}),
    "another pair of known concepts": ({"content", "style"},),
}


@dataclass(frozen=True)
class Cost:
    """A row's, medians over its pairs. seconds: by case; image: of one; peak_mb: at most, of a training."""

    seconds: Mapping[str, float]
    image: float | None
    peak_mb: float | None


def seconds_of(plan: Plan) -> dict[str, float]:
    """Median seconds of each stage, and of an image, over what has been done."""
    found: dict[str, list[float]] = {}
    marks = [(t.config.stage, _mark(t)) for t in plan.trainings.values()]
    for name, path in [*marks, *(("picture", cost_of(drawing)) for drawing in drawings_of(plan))]:
        if path.exists():
            found.setdefault(name, []).append(_read(path)["seconds"])
    return {name: median(values) for name, values in found.items()}


def costs_of(plan: Plan) -> dict[str, Cost]:
    """By row. A case is left out where no pair has the times of all its trainings: none is kept of interrupted ones."""
    return {row: _cost(plan, [d for d in plan.drawings if d.row == row]) for row in plan.study.rows}


def costs_table(costs: Mapping[str, Cost]) -> str:
    """As Markdown."""
    lines = [
        "Seconds of what has to be trained or put together (medians over pairs), and memory at most meanwhile.\n",
        f"| | {' | '.join(CASES)} | an image | MB at most |",
        "| --- |" + " --- |" * (len(CASES) + 2),
    ]
    for row, cost in costs.items():
        seconds = [_number(cost.seconds.get(case), ".1f") for case in CASES]
        cells = [row, *seconds, _number(cost.image, ".2f"), _number(cost.peak_mb, ".0f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cost(plan: Plan, drawings: Sequence[Drawing]) -> Cost:
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    peaks, images = [], []
    for drawing in drawings:
        needed = {id(t): t for path in drawing.files.values() for t in _trainings(plan, Path(path))}.values()
        facts = [(_shown(plan, t), _read(_mark(t)) if _mark(t).exists() else None) for t in needed]
        peaks += [known["peak_mb"] for _, known in facts if known]
        for case, new in CASES.items():
            of_case = [known for shown, known in facts if shown in new]
            spent = [known["seconds"] for known in of_case if known]
            if len(spent) == len(of_case):
                seconds[case].append(sum(spent))
        if cost_of(drawing).exists():
            images.append(_read(cost_of(drawing))["seconds"])
    return Cost(
        {case: median(values) for case, values in seconds.items() if values},
        median(images) if images else None,
        max(peaks, default=None),
    )


def _trainings(plan: Plan, file: Path) -> Iterator[Training]:
    """The one that makes `file`, its result or what comes beside it, and those that make what it needs.

    None for a file from elsewhere, which the study's settings name.
    """
    training = plan.jobs.get(str(file.parent))
    if isinstance(training, Training):
        yield training
        for path in training.needs:
            yield from _trainings(plan, path)


def _shown(plan: Plan, training: Training) -> set[str]:
    """What its images show, or those of what it is made of: a content, a style or both."""
    config = training.config
    own = {"content": isinstance(config, ShowsContent), "style": isinstance(config, ShowsStyle)}
    shown = {kind for kind, shows in own.items() if shows}
    return shown.union(*(_shown(plan, each) for path in training.needs for each in _trainings(plan, path)))


def _mark(training: Training) -> Path:
    return training.folder / "seconds.json"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
