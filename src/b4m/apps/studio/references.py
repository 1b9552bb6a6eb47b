"""Reference images on their way in: looked at one by one, so that what is wrong with one is said beside it.

The image reader of a training decides (data.images); a file that it refuses is not kept. Files get numbers for names;
what they were called is text in names.json.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ...core.atomic import write_text
from ...core.errors import UserError, printable
from ...data.formats import FORMATS, HEAD, NAMES, begins
from .plain import without_paths
from .project import read_json

MAX_IMAGES = 1000  # of one concept
MAX_FILE = 64 * 2**20  # bytes of one upload
MAX_CAPTION = 2**16  # as the image reader's
LIST = "names.json"


@dataclass(frozen=True)
class Reference:
    """One image of a concept, or one that was refused: then `problem` says why, and there is no file."""

    name: str  # what it was called
    file: str = ""  # its name in the folder
    problem: str = ""
    note: str = ""  # what a training will do to it


def add(folder: Path, uploads: Sequence[tuple[Path, str]], size: int, fit: str = "crop") -> list[Reference]:
    """Check and keep uploads (file, name): -> one entry each, in their order. Captions are .txt files of one name.

    size, fit: of a training, for what is said about the cut. Raises UserError only where the disk refuses.
    """
    names = _names(folder)
    kept = {digest: entry["name"] for entry in names.values() if (digest := entry.get("sha256"))}
    captions = {Path(name).stem: path for path, name in uploads if name.lower().endswith(".txt")}
    found = []
    for path, name in uploads:
        if name.lower().endswith(".txt"):
            continue
        reference, entry = _take(folder, path, printable(name)[:120], len(names), kept, size, fit)
        found.append(reference)
        if entry:
            if (caption := captions.get(Path(name).stem)) is not None:
                _caption(caption, folder / reference.file)
            names[reference.file] = entry
            kept[entry["sha256"]] = entry["name"]
            write_text(folder / LIST, json.dumps(names, indent=1, ensure_ascii=False) + "\n")
    return found


def listing(folder: Path) -> list[Reference]:
    """The images that a folder keeps."""
    return [
        Reference(entry["name"], file, note=entry.get("note", ""))
        for file, entry in _names(folder).items()
        if (folder / file).is_file()
    ]


def remove(folder: Path, file: str) -> None:
    """One of `listing`; anything else is left alone."""
    names = _names(folder)
    if file in names:
        for path in (folder / file, (folder / file).with_suffix(".txt")):
            path.unlink(missing_ok=True)
        del names[file]
        write_text(folder / LIST, json.dumps(names, indent=1, ensure_ascii=False) + "\n")


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def problems(references: Iterable[Reference]) -> list[str]:
    return [f"{reference.name}: {reference.problem}" for reference in references if reference.problem]


def as_trained(path: Path, size: int, fit: str = "crop", alpha: str = "white") -> bytes:
    """What a training sees of one image, as PNG; what its mask leaves out is checkered. Raises UserError."""
    import torch
    from PIL import Image

    from ...data.images import read_folder

    (image,) = read_folder(path, size, fit, alpha).pictures
    pixels = (image.pixels + 1) / 2
    if image.mask is not None:
        at = torch.arange(size) * 16 // size
        checks = 0.75 + 0.15 * ((at[:, None] + at) % 2)
        pixels = pixels * image.mask + checks * (1 - image.mask)
    levels = (pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    out = BytesIO()
    Image.fromarray(levels).save(out, "PNG")
    return out.getvalue()


def _take(
    folder: Path, upload: Path, name: str, count: int, kept: dict[str, str], size: int, fit: str
) -> tuple[Reference, dict[str, Any] | None]:
    """Keep one upload under a number, or say what is wrong with it."""
    if count >= MAX_IMAGES:
        return Reference(name, problem=f"not taken: {MAX_IMAGES} images are enough for a concept"), None
    if upload.is_symlink() or not upload.is_file():
        return Reference(name, problem="not a regular file"), None
    if (length := upload.stat().st_size) > MAX_FILE:
        return Reference(name, problem=f"{length:,} bytes, {MAX_FILE:,} are allowed; scale it down"), None
    data = upload.read_bytes()
    if (form := begins(data[:HEAD])) is None:
        return Reference(name, problem=f"not a {NAMES} image, whatever its name says; convert it"), None
    suffix = FORMATS[form][1][0]
    digest = hashlib.sha256(data).hexdigest()
    if digest in kept:
        return Reference(name, problem=f"the same image as {kept[digest]}"), None
    folder.mkdir(parents=True, exist_ok=True)
    file = f"{1 + max((int(path.stem) for path in folder.glob('*.*') if path.stem.isdigit()), default=0):04d}{suffix}"
    path = folder / file
    path.write_bytes(data)
    try:
        note = _look(path, size, fit)
    except UserError as error:
        path.unlink()
        told = str(error).removeprefix(f"{path}: ")
        return Reference(name, problem=without_paths(told, folder)), None
    return Reference(name, file, note=note), {"name": name, "sha256": digest, "note": note}


def _look(path: Path, size: int, fit: str) -> str:
    """What a training will do to the image. Raises UserError for one that it would refuse."""
    from ...data.images import read_folder

    loaded = read_folder(path, size, fit)
    (image,) = loaded.pictures
    height, width = image.original_size
    told = f"{width} x {height}"
    if min(height, width) < size:
        told += f", enlarged to {size}: soft"
    if fit == "crop" and max(height, width) > 1.02 * min(height, width):
        lost = 1 - min(height, width) / max(height, width)
        told += f", {lost:.0%} cut off"
    return ", ".join([told, *(without_paths(finding.text) for finding in loaded.findings)])


def _caption(upload: Path, image: Path) -> None:
    """Captions that cannot be read are left out: the built one is used, as for images without any."""
    if upload.is_file() and not upload.is_symlink() and upload.stat().st_size <= MAX_CAPTION:
        text = upload.read_bytes().decode("utf-8-sig", errors="ignore")
        write_text(image.with_suffix(".txt"), " ".join(text.split()) + "\n")


def _names(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        found = read_json(folder / LIST)
    except UserError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        file: {key: str(value) for key, value in entry.items()}
        for file, entry in found.items()
        if re.fullmatch(r"\d{4}\.[a-z]{3,5}", file) and isinstance(entry, dict) and "name" in entry
    }
