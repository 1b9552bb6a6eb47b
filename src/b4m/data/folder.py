"""What lies in a folder of reference images: the images, the texts, and what is left out, with the reason."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..core.errors import UserError
from ..core.storage import reason
from .findings import Finding, lines, some
from .formats import FORMATS, HEAD, NAMES, begins, lacking, named

CAPTIONS = (".txt", ".caption")
METADATA = ("metadata.jsonl", "metadata.csv")
CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini")  # which Windows writes
FOLDERS = 100  # that are looked into before they are left out
LEFT_OUT = "left out, "
HIDDEN = f"{LEFT_OUT}a hidden file"
SUBFOLDER = (
    f"{LEFT_OUT}a folder in the folder (give it as one of its own; a 10_ before its name means nothing here)"
)
MISNAMED = f"{LEFT_OUT}an image by its contents, not by its name (rename it)"
UNKNOWN = f"{LEFT_OUT}neither an image that is read nor a caption"


@dataclass(frozen=True)
class Found:
    """The files of a folder; or one image that was given by itself, and the texts beside it."""

    folder: Path
    images: tuple[Path, ...]  # sorted by name
    texts: tuple[Path, ...]  # captions and metadata
    left_out: tuple[Finding, ...]
    names: tuple[str, ...]  # of all that is visible in the folder
    whole: bool  # the folder was given, not the image


def look(path: Path) -> Found:
    """Raises UserError where there is no image."""
    try:
        if not path.is_dir():
            path.stat()  # raises for a missing path and for a link to nowhere
            return _beside(path)
        names = sorted(entry.name for entry in path.iterdir())
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(
            f"{path}: cannot be opened ({reason(error)}); give images, a folder of them, or a data set as NAME:SPLIT"
        ) from error
    images, texts, left_out = [], [], []
    for file in (path / name for name in names):
        if _is_text(file):
            texts.append(file)
        elif _is_image(file):
            images.append(file)
        elif why := _why_not(file):
            left_out.append(why)
    if not images:
        raise UserError(f"{path}: no image to use in this folder{_instead(left_out)}")
    return Found(path, tuple(images), tuple(texts), tuple(left_out), _visible(names), whole=True)


def _beside(file: Path) -> Found:
    """One image by itself."""
    kind = named(file.suffix)
    if kind is None:
        raise UserError(f"{file}: not a {NAMES} image by its name; give one, or a folder")
    if need := lacking(kind):
        raise UserError(f"{file}: {need}; or save it as PNG or JPEG")
    beside = sorted(file.parent.iterdir())
    texts = tuple(path for path in beside if _is_text(path))
    return Found(file.parent, (file,), texts, (), _visible(path.name for path in beside), whole=False)


def _visible(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not name.startswith("."))


def _is_text(file: Path) -> bool:
    name = file.name.lower()
    wanted = file.suffix.lower() in CAPTIONS or name in METADATA
    return wanted and not name.startswith(".") and not file.is_dir()


def _is_image(file: Path) -> bool:
    """One to use, by its name."""
    kind = named(file.suffix)
    return kind is not None and not lacking(kind) and not file.name.startswith(".") and not file.is_dir()


def _why_not(file: Path) -> Finding | None:
    """Why it is left out; None for what no user has put there."""
    hidden, kind = file.name.startswith("."), named(file.suffix)
    if hidden or file.name.lower() in CLUTTER:
        # macOS keeps a "._a.jpg" of its own beside "a.jpg".
        ours = kind and not file.name.startswith("._") and not file.is_dir()
        return Finding(file, HIDDEN) if ours else None
    if file.is_dir():
        count = _images_below(file)
        return Finding(file, SUBFOLDER, f"{count} image{'s'[: count != 1]}") if count else None
    if kind is None:  # cameras' raw files begin as TIFF does
        return Finding(file, UNKNOWN if begins(_head(file)) in (None, "TIFF") else MISNAMED)
    return Finding(file, f"{LEFT_OUT}{lacking(kind)}")


def _images_below(folder: Path) -> int:
    """Files named like images in `folder` and what lies in it, hidden ones apart."""
    count = 0
    for _, folders, files in islice(os.walk(folder), FOLDERS):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += sum(named(Path(name).suffix) is not None for name in files if not name.startswith("."))
    return count


def _head(file: Path) -> bytes:
    try:
        if file.is_file():  # opening a pipe would wait for ever
            with file.open("rb") as opened:
                return opened.read(HEAD)
    except OSError:  # it is left out either way
        pass
    return b""


def _instead(left_out: list[Finding]) -> str:
    """What there is, and what to do."""
    below = [f"{finding.file} ({finding.detail})" for finding in left_out if finding.what == SUBFOLDER]
    if below:
        return f" itself; give the one in it that is meant: {some(below)}"
    suffixes = " ".join(suffix for _, endings in FORMATS.values() for suffix in endings[:1])
    seen = "; ".join(lines(left_out)) or "found nothing"
    return f" ({seen}); put {NAMES} files ({suffixes}) directly into it"
