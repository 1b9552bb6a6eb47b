"""Push to Hugging Face: which files may go, and the settings of `b4m push` that the form stands for.

The token is never on the page: it is that of the environment, or of huggingface_hub's login on this machine.
"""

import os
from collections.abc import Sequence
from typing import Any

from ...core.errors import UserError
from ..push import hub
from . import exporting
from .project import Project

PUSH = "Push to Hugging Face"


def state() -> tuple[str, bool]:
    """(what the button says, whether it can be pressed)."""
    try:
        missing = None if hub.token() else hub.NO_TOKEN
    except UserError as error:
        missing = str(error)
    return (f"Cannot push: {missing}", False) if missing else (PUSH, True)


def files(project: Project) -> list[str]:
    """Names of the exported LoRA files, the newest first."""
    return [path.name for path in exporting.exported(project) if path.suffix == ".safetensors"]


def settings(
    project: Project, name: str | None, repo: str, licence: str, public: bool, images: Sequence[str] | None
) -> dict[str, Any]:
    """Of `b4m push`. Raises UserError for what the form leaves open."""
    if name not in files(project):
        raise UserError("no file is chosen: export one, then choose it here")
    for what, given in (("repository, owner/name", repo), ("licence, as cc-by-4.0", licence)):
        if not given.strip():
            raise UserError(f"one field is empty: the {what}")
    return {
        "file": os.path.join(project.relative(project.exports), name),
        "repo": repo.strip(),
        "license": licence.strip(),
        "public": public is True,
        "images": tuple(images or ()),
    }
