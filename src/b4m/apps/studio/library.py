"""The concepts of a project, as cards: what each is, whether it can be used, and with which others it goes."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...config.training import LORA_FILE
from ...core.atomic import write_text
from ...core.errors import UserError, printable
from ...data.formats import named
from .header import read_header
from .project import Project, checked, new_ident, read_json

CONCEPT = "concept.json"
KINDS = ("content", "style", "lora")
MAX_NAME = 60  # characters
RESULTS = {"content": "content.safetensors", "style": "style.safetensors", "lora": LORA_FILE}
# What two concept files must share to be composed, as files.concept.check_pair says; "b4m." before each.
SHARED = {
    "seed": "basis seed",
    "rank": "rank",
    "ratio": "ratio",
    "basis": "basis",
    "scale": "basis scale",
    "layers": "layers",
    "unet_hash": "base model",
}


@dataclass(frozen=True)
class Concept:
    """One card. kind "lora": a fused pair of the second stage, or a LoRA from elsewhere."""

    ident: str
    kind: str
    name: str
    class_word: str = ""
    trigger: str = ""
    created: float = 0.0  # seconds since 1970
    imported: bool = False
    settings: dict[str, Any] = field(default_factory=dict)  # of the training, beside its preset
    pair: tuple[str, str] | None = None  # of a second stage: its content and its style
    two_dials: bool = True  # of a LoRA: whether content and style can be turned apart

    @property
    def words(self) -> str:
        """How a prompt calls it: "snq teddybear", "w@z yarn art"."""
        return " ".join(word for word in (self.trigger, self.class_word) if word)


def concepts(project: Project) -> list[Concept]:
    """All of them, newest first; a folder whose concept.json is damaged is left out."""
    return _all(project.folder / "concepts")


def _all(root: Path) -> list[Concept]:
    found = []
    for path in root.glob(f"*/{CONCEPT}"):
        try:
            found.append(_read(path))
        except UserError:
            continue
    return sorted(found, key=lambda concept: concept.created, reverse=True)


def get(project: Project, ident: str) -> Concept:
    """Raises UserError for a concept that is not there."""
    path = project.concept(ident) / CONCEPT
    if not path.is_file():
        raise UserError("this concept is no longer in the project; choose another")
    return _read(path)


def save(project: Project, concept: Concept) -> None:
    values = {key: value for key, value in asdict(concept).items() if key != "ident"}
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_text(project.concept(concept.ident) / CONCEPT, text + "\n")


def create(project: Project, kind: str, name: str, **facts: Any) -> Concept:
    """A new concept with nothing in it. Raises UserError for a name that cannot be."""
    concept = Concept(
        new_ident(kind), kind, free_name(project, clean_name(name)), created=time.time(), **facts
    )
    save(project, concept)
    return concept


def clean_name(name: str) -> str:
    """Raises UserError for an empty or endless one; what does not print is escaped."""
    line = printable(" ".join(str(name or "").split()))
    if not line:
        raise UserError("the name is empty: say what to call it")
    if len(line) > MAX_NAME:
        raise UserError(f"the name has {len(line)} characters, {MAX_NAME} are allowed: shorten it")
    return line


def free_name(project: Project, name: str) -> str:
    """The name, with a number behind it where it is taken."""
    taken = {concept.name for concept in concepts(project)}
    numbered = (f"{name} {number}" for number in range(2, len(taken) + 3))
    return next(candidate for candidate in (name, *numbered) if candidate not in taken)


def rename(project: Project, ident: str, name: str) -> Concept:
    name, before = clean_name(name), get(project, ident)
    if any(other.name == name and other.ident != ident for other in concepts(project)):
        raise UserError(f"the name {name!r} is taken: choose another")
    renamed = replace(before, name=name)
    save(project, renamed)
    return renamed


def delete(project: Project, ident: str) -> None:
    """To the trash, from which `restore` brings it back whole."""
    get(project, ident)
    goal = project.trashed(ident)
    goal.parent.mkdir(exist_ok=True)
    shutil.rmtree(goal, ignore_errors=True)
    project.concept(ident).rename(goal)
    write_text(goal / "deleted.txt", f"{time.time()}\n")


def deleted(project: Project) -> list[Concept]:
    """What is in the trash, the last one that went there first."""
    found = _all(project.folder / "trash")
    return sorted(found, key=lambda concept: _when(project.trashed(concept.ident)), reverse=True)


def restore(project: Project, ident: str) -> Concept:
    """Raises UserError for what is not in the trash."""
    source, goal = project.trashed(ident), project.concept(ident)
    if not (source / CONCEPT).is_file() or goal.exists():
        raise UserError("this concept is not in the trash any more")
    source.rename(goal)
    (goal / "deleted.txt").unlink(missing_ok=True)
    return get(project, ident)


def file_of(project: Project, concept: Concept) -> Path:
    """Where its trained file lies, or will."""
    folder = project.concept(concept.ident)
    return (
        folder / "imported.safetensors" if concept.imported else folder / "training" / RESULTS[concept.kind]
    )


def ready(project: Project, concept: Concept) -> bool:
    return file_of(project, concept).is_file()


def role_files(project: Project, chosen: Mapping[str, str | None]) -> dict[str, str]:
    """{"content": ident, ...} as settings of a drawing: {"content_file": its relative path, ...}.

    Raises UserError for one that is not there, not trained yet, or of another kind.
    """
    files = {}
    for role, ident in chosen.items():
        if not ident:
            continue
        concept = get(project, checked(ident))
        if concept.kind != role:
            raise UserError(
                f"{concept.name} is a {concept.kind}, and was chosen as the {role}; choose another"
            )
        if not ready(project, concept):
            raise UserError(f"{concept.name} is not trained yet; wait for its training, or choose another")
        files[f"{role}_file"] = project.relative(file_of(project, concept))
    return files


def facts(project: Project, concept: Concept) -> dict[str, str]:
    """The header of its file, without "b4m."; empty where there is none yet."""
    path = file_of(project, concept)
    try:
        stat = path.stat()
        return dict(_facts(path, stat.st_mtime_ns, stat.st_size))
    except (OSError, UserError):
        return {}


@lru_cache(maxsize=4096)
def _facts(path: Path, changed: int, size: int) -> tuple[tuple[str, str], ...]:
    """Cached under the file's time and size, which a new file changes."""
    return tuple((key.removeprefix("b4m."), value) for key, value in read_header(path).items())


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Why two files, by their facts, do not compose; empty where they do."""
    told = []
    for key, what in SHARED.items():
        if one.get(key) != other.get(key):
            values = "" if key == "unet_hash" else f" {one.get(key, 'none')} against {other.get(key, 'none')}"
            told.append(f"another {what}{values}")
    return "; ".join(told)


def picture(project: Project, concept: Concept) -> Path | None:
    """What a card shows: the newest preview of its training, else its first reference image."""
    folder = project.concept(concept.ident)
    previews = sorted((folder / "training" / "previews").glob("step-*.png"))
    images = sorted(path for path in (folder / "images").glob("*.*") if named(path.suffix))
    return next(iter([*previews[-1:], *images[:1]]), None)


def _read(path: Path) -> Concept:
    found = read_json(path)
    try:
        known = {key: found[key] for key in Concept.__dataclass_fields__ if key in found}
        known["pair"] = tuple(known["pair"]) if known.get("pair") else None
        concept = Concept(ident=checked(path.parent.name), **known)
        texts = (concept.name, concept.class_word, concept.trigger)
        if concept.kind not in KINDS or not all(isinstance(text, str) for text in texts):
            raise ValueError(concept.kind)
        return replace(concept, created=float(concept.created), settings=dict(concept.settings))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not the description of a concept; restore it from a copy") from error


def _when(folder: Path) -> float:
    try:
        return float((folder / "deleted.txt").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0
