"""A folder of concepts for the hub: what `b4m library` has made, a studio's project, or any folder of such files."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError, note, printable
from ..studio.library import CONCEPT
from .about import About, about

PLACES = {"content": "contents", "style": "styles", "fused": "pairs", "LoRA": "loras"}  # in the repository
# Of work in progress, of scores, of what was deleted, of images.
INNER = {"state", "features", "trash", "cells", "pictures"}
PEFT = "adapter_config.json"  # its folder is one file to b4m
# What a library's folders are called around the name of the concept.
_FOLDER = re.compile(r"(?:content|style|second|lora)-(.+)-[0-9a-f]{12}")


@dataclass(frozen=True)
class Member:
    """One file of the folder."""

    name: str  # in the repository: contents/bear.safetensors
    about: About


def is_folder_of_files(path: str) -> bool:
    return Path(path).is_dir() and not (Path(path) / PEFT).exists()


def members(path: str, base_model: str | None = None) -> list[Member]:
    """Every content, style and LoRA file in the folder, for one base model. base_model: as of `about`.

    Files of another kind are left out aloud. Raises UserError: none is left, or they are for several base models.
    """
    found: list[Member] = []
    for file in _files(Path(path)):
        try:
            seen = about(str(file), base_model)
        except UserError as error:
            note(f"left out: {error}")
            continue
        found.append(Member(_unique(f"{PLACES[seen.kind]}/{_stem(file)}", found), seen))
    if not found:
        raise UserError(
            f"{path}: no content, style or LoRA file in this folder; give what b4m library or b4m studio has made"
        )
    bases = {(one.about.base, one.about.embedded, one.about.made_for) for one in found}
    if len(bases) > 1:
        raise UserError(
            f"{path}: its files are for {len(bases)} base models, which cannot be mixed; push them apart"
        )
    return sorted(found, key=lambda one: (list(PLACES.values()).index(one.name.partition("/")[0]), one.name))


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.safetensors")):
        if not INNER & {part.name for part in file.relative_to(folder).parents}:
            yield file


def _stem(file: Path) -> str:
    """What the file is called for people: a studio's concept by its title, a library's by its folder."""
    for folder in file.parents[:2]:
        if (folder / CONCEPT).is_file():
            return _plain(_title(folder / CONCEPT) or folder.name)
    named = _FOLDER.fullmatch(file.parent.name)
    return _plain(named[1] if named else file.stem)


def _title(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("name", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _plain(text: str) -> str:
    """Letters and digits, whatever it is called here."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", printable(text)).strip("-")[:80] or "lora"


def _unique(name: str, others: Sequence[Member]) -> str:
    taken = {one.name for one in others}
    numbers = ("", *(f"-{number}" for number in range(2, len(taken) + 3)))
    return next(full for number in numbers if (full := f"{name}{number}.safetensors") not in taken)
