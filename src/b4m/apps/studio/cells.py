"""Drawn images, by what decides them: what was drawn once is never drawn again, and nothing else is taken for it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ... import __version__
from ...config.fields import deciding, flag
from ...config.resolve import resolve
from ...config.sampling import DrawnWith, GenerateConfig
from ...core.errors import UserError
from . import command
from .project import Project

FILES = ("content_file", "style_file", "lora_file")
AT_LOADING = (
    *FILES,
    "base_model",
    "vae",
    "mixed_precision",
)  # what a loaded model does not take at each drawing


@dataclass(frozen=True)
class Shot:
    """One image to be drawn. settings: of `b4m generate`, over the project's own; files by relative paths."""

    prompt: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, project: Project) -> DrawnWith:
        """All that it is drawn with. Raises UserError for what cannot be."""
        return resolve(DrawnWith, project.base.preset, None, **{**project.base.settings(), **self.settings})

    def with_(self, **changes: Any) -> "Shot":
        return Shot(self.prompt, self.seed, {**self.settings, **changes})

    def bare(self) -> "Shot":
        """The same without a file: the base model alone."""
        of_files = (*FILES, "compose", "negative")
        kept = {key: value for key, value in self.settings.items() if key not in of_files}
        return Shot(self.prompt, self.seed, {**kept, "content_strength": 1.0, "style_strength": 1.0})


def key(project: Project, shot: Shot) -> str:
    """The name of its cell: a digest of all that decides it, its files by what is in them. Raises UserError."""
    config = shot.config(project)
    for name in ("base_lora", "more_files"):  # paths that could lead anywhere
        if getattr(config, name):
            raise UserError(
                f"this was drawn with {flag(name)}, which the studio does not load: use b4m generate"
            )
    facts: dict[str, Any] = {f.name: getattr(config, f.name) for f in deciding(DrawnWith)}
    for name in FILES:
        path = getattr(config, name)
        facts[name] = None if path is None else digest(_inside(project, path))
    if config.content_file is None and config.lora_file is None and config.style_file is None:
        facts["content_strength"] = facts["style_strength"] = None  # dials of nothing
    facts |= {"prompt": shot.prompt, "seed": shot.seed, "b4m": __version__}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def _inside(project: Project, path: str) -> Path:
    """Raises UserError for a file elsewhere, which an image of a stranger's project may name."""
    found = (project.folder / path).resolve()
    if not found.is_relative_to(project.folder.resolve()):
        raise UserError(
            "the file that this was drawn with is not in the project: take it in on Library first"
        )
    return found


def digest(path: Path) -> str:
    """sha256 of a file's bytes. Raises UserError for one that is gone."""
    try:
        stat = path.stat()
    except OSError:
        raise UserError(
            "the file that this was drawn with is gone: choose another, or teach it again"
        ) from None
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _digest(path: Path, changed: int, size: int) -> str:
    """Cached under the file's time and size, which a new file changes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def missing(project: Project, shots: Sequence[Shot]) -> list[tuple[str, Shot]]:
    """(key, shot) of those that are not drawn yet, each once."""
    wanted = {key(project, shot): shot for shot in shots}
    return [(name, shot) for name, shot in wanted.items() if not project.cell(name).is_file()]


def shown_command(project: Project, shot: Shot) -> str:
    """The command that draws it again, for a shell in the project's folder."""
    given: dict[str, Any] = {"preset": project.base.preset, **project.base.settings(), **shot.settings}
    given |= {"prompts": [shot.prompt], "seeds": [shot.seed], "output_dir": "redrawn"}
    return command.shown(command.arguments("generate", given))


def facts(project: Project, shot: Shot) -> dict[str, str]:
    """All that it is drawn with, for people."""
    config = shot.config(project)
    values = {f.name: getattr(config, f.name) for f in deciding(DrawnWith, paths=True)}
    return {"prompt": shot.prompt, "seed": str(shot.seed)} | {
        name.replace("_", " "): str(value) for name, value in values.items() if value not in (None, ())
    }


def read_back(project: Project, name: str) -> Shot:
    """The shot in a cell, by what its PNG says. Raises UserError for one that is gone or says nothing."""
    from PIL import Image

    path = project.cell(name)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            found = {key: str(value) for key, value in getattr(image, "text", {}).items()}
        known = {f.name for f in deciding(DrawnWith, paths=True)}
        settings = {key: value for key, value in found.items() if key in known}
        return Shot(found["prompt"], int(found["seed"]), settings)
    except (OSError, KeyError, ValueError, SyntaxError):
        raise UserError("this image is gone, or does not say how it was drawn: draw it again") from None


def check(project: Project, shots: Sequence[Shot]) -> None:
    """Raises UserError for prompts, seeds and settings that `b4m generate` would refuse."""
    for shot in shots[:1]:
        given = {**project.base.settings(), **shot.settings}
        resolve(
            GenerateConfig,
            project.base.preset,
            None,
            prompts=[other.prompt for other in shots],
            seeds=[other.seed for other in shots],
            **given,
        )
