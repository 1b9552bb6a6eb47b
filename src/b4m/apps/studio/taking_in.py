"""Concept and LoRA files from elsewhere: opened as the command line opens them, then a card like any other."""

import shutil
from pathlib import Path

from ...core.errors import UserError
from . import drawing, library
from .library import Concept
from .plain import without_paths
from .project import Project
from .worker import Worker


def take_in(project: Project, worker: Worker, upload: Path, name: str, class_word: str = "") -> Concept:
    """Raises UserError for all that `b4m info` refuses; then nothing is kept."""
    if upload.is_symlink() or not upload.is_file():
        raise UserError("not a regular file: choose a .safetensors file")
    try:
        found = worker.ask(drawing.examine, str(upload))
    except UserError as error:
        raise UserError(without_paths(error, upload.parent)) from None
    concept = library.create(
        project,
        found["kind"],
        name.strip() or upload.stem[: library.MAX_NAME - 4],
        class_word=" ".join(class_word.split()),
        trigger=" ".join(found["triggers"]),
        imported=True,
        two_dials=found["two_dials"],
    )
    goal = library.file_of(project, concept)
    partial = goal.with_suffix(".partial")
    shutil.copyfile(upload, partial)
    partial.replace(goal)
    return concept
