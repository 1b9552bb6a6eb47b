"""The images and files of a project that a page may show, by names that are no paths."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError
from . import exporting, library, references, teach
from .project import Project

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
FOREVER = "private, max-age=31536000, immutable"  # a cell's name changes with what is in it
ASK = "private, no-cache"


@dataclass(frozen=True)
class Answer:
    """What is sent for one name."""

    data: bytes
    type: str
    cache: str = ASK
    save_as: str = ""  # a name to save it under, instead of showing it


def answer(project: Project, name: str, size: int = 64) -> Answer | None:
    """For the part of the address after /studio/; None for what is not there. size: of a training's images."""
    for pattern, find in ROUTES.items():
        if match := re.fullmatch(pattern, name):
            try:
                return find(project, size, *match.groups())
            except (UserError, OSError):
                return None
    return None


def inside(project: Project, path: Path) -> bool:
    """Whether a file is one of the project's: links that lead out of it are not."""
    return path.is_file() and path.resolve().is_relative_to(project.folder.resolve())


def _send(project: Project, path: Path | None, cache: str = ASK, save_as: str = "") -> Answer | None:
    if path is None or not inside(project, path):
        return None
    kind = "application/octet-stream" if save_as else TYPES.get(path.suffix, "application/octet-stream")
    return Answer(path.read_bytes(), kind, cache, save_as)


def _concept(project: Project, size: int, ident: str) -> Answer | None:
    path = library.picture(project, library.get(project, ident))
    if path is not None and path.suffix not in TYPES and inside(project, path):  # what no browser shows
        return Answer(references.as_trained(path, size), "image/png")
    return _send(project, path)


def _cell(project: Project, size: int, key: str) -> Answer | None:
    return _send(project, project.cell(key), FOREVER)


def _preview(project: Project, size: int, ident: str, step: str) -> Answer | None:
    folder = project.concept(ident) / "training" / "previews"
    return _send(project, folder / f"step-{int(step):06d}.png")


def _desk(project: Project, size: int, kind: str, file: str) -> Answer | None:
    path = teach.desk(project, kind) / file
    if not inside(project, path):
        return None
    return Answer(references.as_trained(path, size, *teach.cut(project, kind)), "image/png")


def _export(project: Project, size: int, name: str) -> Answer | None:
    found = {path.name: path for path in exporting.exported(project)}
    return _send(project, found.get(name), save_as=name)


ROUTES: dict[str, Callable[..., Answer | None]] = {
    r"concept/((?:content|style|lora)-[0-9a-f]{8})": _concept,
    r"cell/([0-9a-f]{40})": _cell,
    r"preview/((?:content|style|lora)-[0-9a-f]{8})/(\d{1,9})": _preview,
    r"desk/(content|style)/(\d{4}\.[a-z]{3,5})": _desk,
    r"export/([A-Za-z0-9][A-Za-z0-9._-]{0,120})": _export,
}
