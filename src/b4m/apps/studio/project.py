"""A studio's project: a folder whose files say everything, saved as it is typed, open in one studio at a time.

    project.json            the base model and its settings
    drafts.json             what stands in the forms
    concepts/ID/            one concept: concept.json, images/, training/ (what `b4m train-...` writes), job.json
    cells/KEY.png           drawn images, by what decides them; each holds its settings
    exports/                files for other tools
    trash/ID/               deleted concepts, until they are brought back

No name that somebody types is ever part of a path: folders are called by random identifiers.
"""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ...config.presets import PRESETS
from ...core.atomic import reason, write_text
from ...core.errors import Busy, UserError
from ...core.lock import exclusive

FORMAT = 1  # of project.json; a studio refuses what it does not know
PROJECT, DRAFTS, README = "project.json", "drafts.json", "README.txt"
ABOUT = """A project of b4m studio. Open it with: b4m studio --project THIS_FOLDER

concepts/ID/concept.json says what a concept is called; images/ holds its pictures, training/ what was trained.
cells/ holds the images drawn so far, each with its settings in its PNG text. exports/ holds files for other tools.
trash/ holds what was deleted on the page; empty it when you are sure.
"""
_saving = Lock()  # two events of a page may save at once
_ID = re.compile(r"(content|style|lora)-[0-9a-f]{8}")
_KEY = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """The model that a project draws and trains with."""

    preset: str = "embedded"
    base_model: str | None = None  # None: the preset's
    vae: str | None = None
    mixed_precision: str = "no"

    def settings(self) -> dict[str, Any]:
        """What training and drawing take beside their preset."""
        given = {key: value for key, value in asdict(self).items() if key != "preset" and value is not None}
        return {key: value for key, value in given.items() if (key, value) != ("mixed_precision", "no")}

    @property
    def model(self) -> str:
        return self.base_model or PRESETS[self.preset]["train"]["base_model"]


@dataclass(frozen=True)
class Project:
    """Where things lie in an opened project."""

    folder: Path  # absolute
    base: Base

    def concept(self, ident: str) -> Path:
        """The folder of one concept. Raises UserError for text that is no identifier."""
        return self.folder / "concepts" / checked(ident)

    def trashed(self, ident: str) -> Path:
        return self.folder / "trash" / checked(ident)

    def cell(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise UserError(f"{key[:40]!r}: not the name of a drawn image; open it from the page again")
        return self.folder / "cells" / f"{key}.png"

    @property
    def exports(self) -> Path:
        return self.folder / "exports"

    def relative(self, path: Path) -> str:
        """As commands that run in the project's folder name it: nothing of the machine around it shows."""
        return path.relative_to(self.folder).as_posix()

    def drafts(self) -> dict[str, Any]:
        """What stood in the forms; nothing where that was never saved, or is damaged."""
        try:
            found = read_json(self.folder / DRAFTS)
        except UserError:
            return {}
        return (
            {form: values for form, values in found.items() if isinstance(values, dict)}
            if isinstance(found, dict)
            else {}
        )

    def save_draft(self, form: str, values: dict[str, Any]) -> None:
        with _saving:
            text = json.dumps({**self.drafts(), form: values}, indent=1, ensure_ascii=False)
            write_text(self.folder / DRAFTS, text + "\n")


def checked(ident: str) -> str:
    """Raises UserError for anything but an identifier of ours: nothing else ever becomes part of a path."""
    if not isinstance(ident, str) or not _ID.fullmatch(ident):
        raise UserError(f"{str(ident)[:40]!r}: no concept of this project; choose one on the page")
    return ident


def new_ident(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(4)}"


def read_json(path: Path) -> Any:
    """Raises UserError for a file that is not there or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({reason(error)}); restore it from a copy, or begin a new project"
        ) from error


def peek(folder: Path, begin_with: Base) -> Project:
    """The project in `folder` as it stands, without opening it; nothing is written. Raises UserError."""
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--project {folder}: a file; give a folder")
    path = folder / PROJECT
    if not path.exists():
        if folder.is_dir() and any(
            entry.name not in ("run.lock", "owner.json") for entry in folder.iterdir()
        ):
            raise UserError(
                f"--project {folder}: a folder with other things in it, and no {PROJECT}; give a new or an empty one"
            )
        return Project(folder, begin_with)
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(
            f"{path}: not a project that this studio reads; update b4m, or give another --project"
        )
    known = {name: found[name] for name in asdict(Base()) if name in found}
    base = Base(**known)
    if base.preset not in PRESETS:
        raise UserError(f"{path}: preset {base.preset!r} is not known; choose one of {', '.join(PRESETS)}")
    return Project(folder, base)


@contextmanager
def opened(folder: Path, begin_with: Base) -> Iterator[Project]:
    """The project in `folder`, made if need be, kept to this process. Raises UserError, Busy if a studio has it."""
    project = peek(folder, begin_with)
    try:
        lock = exclusive(project.folder)
        lock.__enter__()
    except Busy as error:
        told = str(error).partition("(")[2].partition(")")[0]
        raise Busy(
            f"--project {folder}: open in another studio ({told}); use that one's page, or give another --project"
        ) from None
    try:
        if not (project.folder / PROJECT).exists():
            write_text(project.folder / README, ABOUT)
            text = json.dumps({"format": FORMAT, **asdict(project.base)}, indent=1)
            write_text(project.folder / PROJECT, text + "\n")
        yield project
    finally:
        lock.__exit__(None, None, None)
