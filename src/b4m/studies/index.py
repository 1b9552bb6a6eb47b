"""The index of a library: a line for each image and for each trained file, as Parquet for whatever reads data sets."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..config.fields import deciding
from ..core.errors import UserError
from ..core.storage import write_atomic
from ..data.identity import file_hash
from ..evaluation.report import SCORES
from .build import Library
from .plan import Asked, Drawing, Plan

IMAGES, CONCEPTS = "index.parquet", "concepts.parquet"
ROLES = ("content_file", "style_file", "lora_file")


@dataclass(frozen=True)
class Entry:
    """One image of a library and what it scores, by one of `SCORES`; no scores where nothing was scored."""

    drawing: Drawing
    asked: Asked
    scores: Mapping[str, Any]


def check_datasets() -> None:
    """Raises UserError where the library that writes the index is missing: before days of training."""
    if find_spec("datasets") is None:
        raise UserError("the index of a library needs datasets: pip install 'b4m[library]'")


def entries_of(plan: Plan, records: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Every image of the plan with its record. records: of `score`, in any order; none where nothing was scored."""
    scores = {(record["row"], record["file"]): record for record in records}
    return [
        Entry(drawing, asked, scores.get((drawing.row, str(asked.file.absolute())), {}))
        for drawing in plan.drawings
        for asked in drawing.asked
    ]


def write_index(folder: Path, library: Library, plan: Plan, entries: Sequence[Entry]) -> None:
    """index.parquet, a line an image, and concepts.parquet, a line a trained file. Paths count from the plan's root."""
    sha = cache(file_hash)
    _write(folder / IMAGES, [_image(library, plan, entry, sha) for entry in entries])
    _write(folder / CONCEPTS, _concepts(plan, sha))


def _image(library: Library, plan: Plan, entry: Entry, sha: Any) -> dict[str, Any]:
    drawing, config, study = entry.drawing, entry.drawing.config, plan.study
    method, dial = library.looks[drawing.row]
    content, style = study.word(drawing.content), study.word(drawing.style)
    files = {role: getattr(config, role) for role in ROLES}
    return {
        "content": content,
        "style": style,
        "pair": f"{content} in {style}",
        "method": method,
        "dial": dial,
        "content_strength": config.content_strength,
        "style_strength": config.style_strength,
        "prompt": entry.asked.prompt,
        "seed": entry.asked.seed,
        "image": _from(plan.root, entry.asked.file),
        "image_sha256": sha(entry.asked.file),
        **{role: _from(plan.root, path) for role, path in files.items()},
        **{f"{role}_sha256": sha(Path(path)) if path else None for role, path in files.items()},
        "base_model": config.base_model,
        "settings": _settings(config, leave_out=("prompts", "seeds")),
        **{f"score_{name}": entry.scores.get(name) for name in SCORES},
    }


def _concepts(plan: Plan, sha: Any) -> list[dict[str, Any]]:
    cost = {key: _cost(training.folder) for key, training in plan.trainings.items()}
    return [
        {
            "stage": training.config.stage,
            "content": getattr(training.config, "content_class", None),
            "style": getattr(training.config, "style_class", None),
            "file": _from(plan.root, training.result),
            "file_sha256": sha(training.result),
            "needs": [_from(plan.root, path) for path in training.needs] or None,
            "seconds": cost[key],
            "settings": _settings(training.config),
        }
        for key, training in plan.trainings.items()
    ]


def _settings(config: Any, leave_out: Sequence[str] = ()) -> str:
    """All settings that decide the result, paths apart, as JSON."""
    names = [f.name for f in deciding(type(config)) if f.name not in leave_out]
    return json.dumps({name: getattr(config, name) for name in names}, ensure_ascii=False)


def _cost(folder: Path) -> float | None:
    """Seconds of a training, where it was never interrupted."""
    path = folder / "seconds.json"
    return json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else None


def _from(root: Path, path: Path | str | None) -> str | None:
    return None if path is None else Path(path).relative_to(root).as_posix()


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    """Columns in which no line says anything are left out: they have no type. Imported here: it takes a second."""
    import datasets

    said = {name for line in lines for name, value in line.items() if value is not None}
    kept = [{name: value for name, value in line.items() if name in said} for line in lines]
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_list(kept)

    def write(partial: Path) -> None:
        table.to_parquet(partial)

    write_atomic(path, write)
