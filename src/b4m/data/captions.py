"""Captions: texts beside the images, metadata.jsonl and metadata.csv, as the field's tools write them.

Names match in any Unicode form (a folder that has been on a Mac spells "é" in two characters) and, where no name is
the very same, in any letter case.
"""

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import UserError
from ..core.storage import reason
from .decode import check_bytes
from .findings import Finding
from .folder import CAPTIONS, METADATA, Found
from .formats import named

MAX_CAPTION, MAX_METADATA = 2**16, 2**24  # bytes of a caption's file, and of metadata
FILES = ("file_name", "filename", "file", "image", "image_file", "image_path", "path")  # columns of metadata
TEXTS = ("text", "caption", "prompt")
EXAMPLES = {
    ".jsonl": 'lines like {"file_name": "01.jpg", "text": "a caption"}',
    ".csv": 'the line file_name,text and then lines like 01.jpg,"a caption"',
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # how a file of Windows' editors may begin
EMPTY = "empty caption"
NO_IMAGE = "caption of no image here"
NO_COLUMN = f"no captions in it, none of its columns is called {', '.join(TEXTS[:-1])} or {TEXTS[-1]}"
OVERRULED = "caption not used, since another of its image comes first"


@dataclass(frozen=True)
class Caption:
    """What a file says of an image."""

    text: str  # one line, "" where nothing is written
    source: str  # ".txt", or a file of metadata with the column
    file: Path


def find_captions(found: Found) -> tuple[dict[Path, Caption], list[Finding]]:
    """The caption of each image that has one, and what the user should know of the others. Raises UserError.

    It is the first that says anything: of texts beside the image ("a.png.txt", "a.txt"; the same with .caption),
    then of metadata.jsonl, then of metadata.csv.
    """
    images = Images(found.names)
    written: dict[str, list[Caption]] = {path.name: [] for path in found.images}
    findings: list[Finding] = []
    for file in sorted(found.texts, key=_rank):
        if file.name.lower() in METADATA:
            read = _from_metadata(file, images)
        else:
            read = _from_text(file, images, written)
        for names, caption, finding in read:
            if caption:
                for name in names & written.keys():
                    written[name].append(caption)
            if finding and found.whole:
                findings.append(finding)
    chosen = {}
    for name, captions in written.items():
        said = [caption for caption in captions if caption.text]
        if said:
            chosen[found.folder / name] = said[0]
        for other in said[1:] if said else captions[:1]:
            if not said or other.text != said[0].text:
                findings.append(Finding(other.file, OVERRULED if said else EMPTY, f"of {name}"))
    return chosen, findings


Read = tuple[set[str], Caption | None, Finding | None]  # names of images, what is said of them, what is odd


class Images:
    """The images of a folder by what captions may call them."""

    def __init__(self, names: Iterable[str]) -> None:
        images = [name for name in names if named(Path(name).suffix)]
        self._names = Called({name: name for name in images})
        self._stems = Called({name: Path(name).stem for name in images})

    def called(self, word: str) -> set[str]:
        """Those with this name, or with this name before their suffix."""
        return self._names.find(word) or self._stems.find(word)


class Called:
    """Images by a word for each."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._exact: dict[str, set[str]] = {}
        self._loose: dict[str, set[str]] = {}  # words that differ in their letters' case alone
        for name, word in words.items():
            self._exact.setdefault(_form(word), set()).add(name)
            self._loose.setdefault(_form(word).casefold(), set()).add(_form(word))

    def find(self, word: str) -> set[str]:
        """The images of this very word, else of the only one that differs from it in case alone."""
        words = self._loose.get(_form(word).casefold(), set())
        only = next(iter(words)) if len(words) == 1 else ""
        return self._exact.get(_form(word)) or self._exact.get(only, set())


def _form(word: str) -> str:
    return unicodedata.normalize("NFC", word)


def _rank(file: Path) -> tuple[int, str]:
    name, order = file.name.lower(), (*CAPTIONS, *METADATA)
    return order.index(name if name in METADATA else file.suffix.lower()), file.name


def _from_text(file: Path, images: Images, wanted: Mapping[str, Any]) -> Iterator[Read]:
    """A caption beside its image. Unread where it belongs to none that is wanted: it may be no caption at all."""
    names = images.called(file.stem)
    if names & wanted.keys():
        yield names, Caption(_one_line(_read_text(file, MAX_CAPTION)), file.suffix.lower(), file), None
    elif not names:
        yield set(), None, Finding(file, NO_IMAGE)


def _from_metadata(file: Path, images: Images) -> Iterator[Read]:
    """A caption for each of its lines."""
    entries = list((_jsonl if file.suffix.lower() == ".jsonl" else _csv)(file))
    where_of: dict[str, tuple[str, str]] = {}
    columns: set[str] = set()
    for where, entry in entries:
        name = _value(where, file, entry, FILES)[1]
        if not name:
            raise UserError(f"{where}: needs a file_name; write {EXAMPLES[file.suffix.lower()]}")
        column, text = _value(where, file, entry, TEXTS)
        columns |= {column} & set(TEXTS)
        names = _owners(file.parent, name, images)
        if names is None:
            continue
        for image in names:
            if where_of.setdefault(image, (where, text))[1] != text:
                raise UserError(
                    f"{where}: a second caption of {image}; keep this or that of {where_of[image][0]}"
                )
        unknown = None if names else Finding(file, NO_IMAGE, name)
        yield names, Caption(_one_line(text), f"{file.name} ({column})", file), unknown
    if entries and not columns:
        yield set(), None, Finding(file, NO_COLUMN, f"has {', '.join(reversed(entries[0][1]))}")


def _owners(folder: Path, name: str, images: Images) -> set[str] | None:
    """The images that a line of metadata means; None for one in a folder below, which is left out as a whole."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "."]
    if len(parts) > 1 and ".." not in parts and os.path.isfile(folder.joinpath(*parts)):
        return None
    return images.called(parts[-1]) if parts else set()


def _value(where: str, file: Path, entry: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, str]:
    """(column, text) of the first of `columns` in which `entry` has a text; ("", "") where it has none."""
    there = [column for column in columns if entry.get(column) is not None]
    for column in there:
        text = entry[column]
        if not isinstance(text, str) or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{where}: its {column} is no text; write {EXAMPLES[file.suffix.lower()]}")
        if text.strip():
            return column, text
    return (there[0] if there else ""), ""


Entries = Iterator[tuple[str, dict[str, Any]]]  # where, and what each column holds


def _jsonl(path: Path) -> Entries:
    for number, line in enumerate(re.split("\r\n|\r|\n", _read_text(path, MAX_METADATA)), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({reason(error)}); write {EXAMPLES['.jsonl']}") from error
        if not isinstance(entry, dict):
            raise UserError(f"{where}: no file_name and text in it; write {EXAMPLES['.jsonl']}")
        yield where, {_column(name): value for name, value in reversed(entry.items())}


def _csv(path: Path) -> Entries:
    """With commas, semicolons or tabs between its columns: whichever its first line has most of."""
    text = _read_text(path, MAX_METADATA)
    first = text.lstrip().partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    columns: list[str] = []
    try:
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = [_column(cell) for cell in row]
                if not {*columns} & {*FILES}:
                    raise UserError(f"{where}: no column is called file_name; write {EXAMPLES['.csv']}")
                continue
            if len(row) > len(columns):
                raise UserError(
                    f"{where}: {len(row)} cells, the first line has {len(columns)}; put quotes around a caption "
                    f'that has commas in it: 01.jpg,"a dog, asleep"'
                )
            yield where, dict(reversed([*zip(columns, row, strict=False)]))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num}: not a table ({reason(error)}); write {EXAMPLES['.csv']}"
        ) from error


def _column(name: str) -> str:
    """ "File Name" is file_name."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _read_text(path: Path, limit: int) -> str:
    """UTF-8, or UTF-16 where the file says so. Raises UserError."""
    check_bytes(path, limit)
    try:
        data = path.read_bytes()
        # With or without the mark that Windows' editors put first.
        text = data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds zeros")
        return text
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as UTF-8 text ({reason(error)}); save it as UTF-8"
        ) from error


def _one_line(text: str) -> str:
    """Captions are prompts."""
    return " ".join(text.split())
