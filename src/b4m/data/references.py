"""Where reference images are given from: a folder, an image, or a data set whose images are kept in a folder."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from ..core.atomic import PARTIAL, write_text
from ..core.errors import UserError, note
from ..core.storage import reason
from ..core.where import locate
from .dataset import DataSet, parse, rows
from .decode import MAX_BYTES
from .findings import Finding
from .folder import CAPTIONS as BESIDE
from .formats import FORMATS, HEAD, NAMES, begins

MOST = 10_000  # images: a concept has a few, and a filter that was forgotten would fill the disk
KEPT = "images of a data set, kept in a folder"
TEXTS = "not read, since captions of an imagefolder stand in its metadata.jsonl; or give the folder without a split"
EMPTY = "left out, rows of the data set without an image"
ABOUT = ".data-set.json"  # beside the images, out of sight


def references(path: Path | str) -> Path:
    """The folder, or the one image, that `path` leads to; of a data set, the folder that its images are kept in.

    Rows are read anew by every process, and where the hub cannot be reached the images of the last time are used.
    Raises UserError.
    """
    found = parse(str(path))
    return Path(locate(str(path))) if found is None else _kept(found, _stamp(found))


def findings_of(path: Path | str) -> list[Finding]:
    """What the user should know of the rows of a data set; nothing of folders, which anybody may have filled."""
    if parse(str(path)) is None:
        return []
    folder = references(path)
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return [Finding(folder, what, detail) for what, detail in about.items()]


def kept_in() -> Path:
    """Where the images of data sets are kept: beside what else comes from the hub, by HF_HOME."""
    from huggingface_hub import cached_assets_path

    return cached_assets_path("b4m", namespace="references")


def _stamp(found: DataSet) -> tuple:
    """Of what lies on this machine: another one once a file of it has changed."""
    place = found.place
    if place is None:
        return ()
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@cache
def _kept(found: DataSet, stamp: tuple) -> Path:
    from .streaming import NotReached

    root = kept_in()
    last = root / f"{hashlib.sha256(str(found).encode()).hexdigest()[:16]}.json"
    partial = root / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        key = _write(found, partial)
        folder = root / f"{_plain(found.called)}-{key}"
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else it is there already, or another process was first
                raise
        write_text(last, json.dumps(folder.name))
    except NotReached:
        folder = _last(root, last)
        if folder is None:
            raise
        note(f"{found}: the hub cannot be reached; its images as they were read last: {folder}")
    except OSError as error:
        raise UserError(f"{found}: its images cannot be kept ({reason(error)}) in {root}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _last(root: Path, last: Path) -> Path | None:
    """The folder of the last time; None where there was none or it is gone."""
    if not last.is_file():
        return None
    folder = root / Path(json.loads(last.read_text(encoding="utf-8"))).name
    return folder if folder.is_dir() else None


def _write(found: DataSet, folder: Path) -> str:
    """Images and captions as a folder of references has them. -> a hash of all of it."""
    empty: list[str] = []
    captions: dict[str, str | None] = {}
    hashes: list[str] = []
    for number, name, data, caption in _named(found):
        if data is None:
            empty.append(f"row {number}")
            continue
        if len(captions) == MOST:
            raise UserError(f"{found}: more than {MOST:,} images; choose with COLUMN==VALUE or first=COUNT")
        (folder / name).write_bytes(data)
        captions[name] = caption
        hashes.append(hashlib.sha256(data).hexdigest())
    if not captions:
        raise UserError(f"{found}: none of its {len(empty)} rows has an image")
    told = {KEPT: str(found), EMPTY: ", ".join(empty), TEXTS: _texts(found, captions)}
    about = json.dumps({what: detail for what, detail in told.items() if detail}, ensure_ascii=False)
    lines = "\n".join(
        json.dumps({"file_name": name, "text": text or ""}, ensure_ascii=False)
        for name, text in captions.items()
    )
    write_text(folder / ABOUT, about)
    if any(captions.values()):
        write_text(folder / "metadata.jsonl", lines)
    return hashlib.sha256("\n".join([about, lines, *hashes]).encode()).hexdigest()[:12]


def _texts(found: DataSet, captions: Mapping[str, str | None]) -> str:
    """A caption beside an image, which `datasets` does not look for; "" where there is none."""
    if found.place is None or found.place.is_file() or any(captions.values()):
        return ""
    return next((path.name for path in sorted(found.place.rglob("*")) if path.suffix.lower() in BESIDE), "")


def _named(found: DataSet) -> Iterator[tuple[int, str, bytes | None, str | None]]:
    """Number, file name, bytes and caption of each row. Raises UserError for bytes that are no image."""
    for row in rows(found):
        data = row.image
        if data is None:
            yield row.number, "", None, None
            continue
        kind = begins(data[:HEAD])
        if kind is None:
            raise UserError(
                f"{found}, row {row.number}: not a {NAMES} image; leave it out with COLUMN==VALUE"
            )
        if len(data) > MAX_BYTES:
            raise UserError(f"{found}, row {row.number}: {len(data):,} bytes, {MAX_BYTES:,} are allowed")
        yield row.number, f"row-{row.number:09d}{FORMATS[kind][1][0]}", data, row.caption


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)[:40] or "data-set"
