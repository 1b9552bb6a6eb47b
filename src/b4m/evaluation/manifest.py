"""Which images are scored: manifest.jsonl, one line per image with its prompt, seed, pair and ground truth."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.storage import reason, write_text

NAME = "manifest.jsonl"
ASPECTS = ("content", "style", "background", "colour")  # what classifiers may be asked for
EXAMPLE = (
    '{"file": "000.png", "prompt": "a snq bear in w@z chalk style", "seed": 0, "content": "bear", '
    '"style": "chalk", "content_dir": "../bear", "style_dir": "../chalk"}'
)


@dataclass(frozen=True)
class Shot:
    """One image to be scored. Paths are absolute once read from a manifest.

    labels: the ground truth asked for, by one of ASPECTS. leaks: by aspect, names that only the references can
    have brought in: the backgrounds and colours they show, the partners they were learned with.
    """

    file: Path
    prompt: str  # in plain words, as it is scored
    seed: int
    content: str
    style: str
    content_dir: Path  # of references: a folder or one image
    style_dir: Path
    row: str = "pictures"  # the method or ablation that drew it
    training_seed: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    leaks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def pair(self) -> tuple[str, str]:
        return self.content, self.style


def in_plain_words(prompt: str, triggers: Iterable[str]) -> str:
    """The prompt without trigger words, as it is scored: no extractor knows one. One of nothing else stays as it is."""
    plain = prompt
    for word in triggers:
        plain = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)\s*", "", plain)
    return plain.strip() or prompt


def read_manifest(folder: Path | str) -> list[Shot]:
    """The images listed in a folder's manifest.jsonl, in its order; its paths count from that folder.

    Raises UserError with the line's number: no manifest, not JSON, a key missing, unknown or of another type, a
    file that is not there, an image listed twice.
    """
    folder = Path(folder).absolute()
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({reason(error)}); write one line per image, like {EXAMPLE}"
        ) from error
    shots: list[Shot] = []
    seen: dict[tuple, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        shot = _shot(where, folder, line)
        key = (shot.row, shot.pair, shot.prompt, shot.seed, shot.training_seed)
        if key in seen:
            raise UserError(
                f"{where}: row, pair, prompt, seed and training seed are those of line {seen[key]}; keep one"
            )
        seen[key] = number
        shots.append(shot)
    if not shots:
        raise UserError(f"{path}: lists no image; write one line per image, like {EXAMPLE}")
    return shots


def _shot(where: str, folder: Path, line: str) -> Shot:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({reason(error)}); write it like {EXAMPLE}") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where}: not a JSON object; write it like {EXAMPLE}")
    for name in entry:
        if name not in KEYS:
            raise UserError(f"{where}: unknown key {name!r}; known: {', '.join(KEYS)}")
    for name, (required, fits, expected) in KEYS.items():
        if required and name not in entry:
            raise UserError(f"{where}: {name} is missing; write it like {EXAMPLE}")
        if name in entry and not fits(entry[name]):
            raise UserError(f"{where}: {name} must be {expected}, and is {json.dumps(entry[name])[:80]}")
    paths = {name: folder / entry[name] for name in PATHS}
    for name, path in paths.items():
        if not (path.is_file() if name == "file" else path.exists()):
            raise UserError(f"{where}: {name} {path} does not exist; paths count from the manifest's folder")
    leaks = {aspect: tuple(names) for aspect, names in entry.get("leaks", {}).items()}
    given: dict[str, Any] = {**entry, **paths, "leaks": leaks}
    return Shot(**given)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _by_aspect(value: Any, fits: Any) -> bool:
    return isinstance(value, dict) and all(key in ASPECTS and fits(item) for key, item in value.items())


PATHS = ("file", "content_dir", "style_dir")
KEYS = {  # key: (required, test, what it must be)
    **{
        name: (True, _text, "text")
        for name in ("file", "prompt", "content", "style", "content_dir", "style_dir")
    },
    "seed": (True, _number, "a whole number"),
    "row": (False, _text, "text"),
    "training_seed": (False, lambda value: value is None or _number(value), "a whole number"),
    "labels": (False, lambda value: _by_aspect(value, _text), f"names by {', '.join(ASPECTS)}"),
    "leaks": (
        False,
        lambda value: _by_aspect(value, lambda names: isinstance(names, list) and all(map(_text, names))),
        f"lists of names by {', '.join(ASPECTS)}",
    ),
}


def write_manifest(folder: Path | str, shots: Sequence[Shot]) -> Path:
    """Write manifest.jsonl into `folder`, atomically; paths inside the folder relative to it, others absolute."""
    folder = Path(folder).absolute()
    lines = [json.dumps(_entry(folder, shot), ensure_ascii=False) + "\n" for shot in shots]
    write_text(folder / NAME, "".join(lines))
    return folder / NAME


def _entry(folder: Path, shot: Shot) -> dict[str, Any]:
    entry = {key: getattr(shot, key) for key in KEYS}
    for name in PATHS:
        path = Path(entry[name]).absolute()
        entry[name] = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
    entry["labels"] = dict(shot.labels)
    entry["leaks"] = {aspect: list(names) for aspect, names in shot.leaks.items()}
    return {key: value for key, value in entry.items() if value not in (None, {})}
