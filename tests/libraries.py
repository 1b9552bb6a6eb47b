"""Libraries for the tests of engines, and what they have made."""

import json
from contextlib import suppress
from pathlib import Path

import yaml

from b4m.studies.settings import LibraryConfig


def written(root: Path, **values) -> LibraryConfig:
    """Its file in `root`, its output in "out" of the folder that one stands in: same paths, same bytes."""
    root.mkdir(parents=True, exist_ok=True)
    shared = {"prompts": ["a {content} in {style} style"], "seeds": [0], "score": False}
    (root / "try.yaml").write_text(yaml.safe_dump({**shared, **values}, sort_keys=False))
    return LibraryConfig(str(root / "try.yaml"), output_dir="out")


def two_by_two(root: Path, tiny_base: str, folders: dict, **changes) -> LibraryConfig:
    """Two contents and two styles, trained for long enough to be interrupted."""
    values = {
        "contents": [folders["content"], folders["contents"][0]],
        "styles": [folders["style"], folders["styles"][0]],
        "partner_styles": [*folders["styles"]],
        "partner_contents": [*folders["contents"]],
        "classes": {"content": "bear", "style": "yarn"},
        "settings": {"base_model": str(tiny_base), "resolution": 16, "checkpoint_every": 5},
        "train": {"rank": 4, "steps": 40},
        "generate": {"steps": 1, "size": 16},
    }
    return written(root, **{**values, **changes})


def made(root: Path) -> dict[str, bytes]:
    """Every file that the trainings and the pairs have made, but for what their making took; by its path."""
    found = (path for part in ("trained", "pictures") for path in (root / "out" / part).rglob("*"))
    kept = {"seconds.json", "run.lock"}
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in found
        if path.is_file() and path.name not in kept
    }


def at_work(root: Path) -> list[int]:
    """The processes that have a training in hand and have saved a state of it."""
    found = []
    for path in (root / "out" / "trained").glob("*/owner.json"):
        with suppress(OSError, ValueError):  # it ends at this moment
            if any((path.parent / "state").glob("step-*")):
                found.append(json.loads(path.read_text())["process"])
    return found
