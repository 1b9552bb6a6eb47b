"""References from a data set: rows of a Hugging Face data set, an imagefolder, Parquet or WebDataset -> a folder.

    owner/toys:train,caption=words,kind==bear,first=5

reads the split `train` row by row, keeps the first five whose column `kind` is `bear`, and takes their captions from
the column `words`. What is kept are the images' own bytes in a folder of images like any other: all that reads,
checks, names or shows references goes on from there.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.where import locate

FILES = {".parquet": "parquet", ".tar": "webdataset"}  # what one file is to `datasets`
OPTIONS = ("image", "caption", "first", "config")
CAPTIONS = ("text", "caption", "prompt", "txt")  # columns that are taken unasked
SHOWN = 8  # values of a column in an error line
FORM = "NAME:SPLIT,image=COLUMN,caption=COLUMN,COLUMN==VALUE,first=COUNT,config=NAME"
_SPELLED = re.compile(r"(?P<name>.+?)(?::(?P<split>\w[\w.-]*))?(?P<options>(?:,[^,=]+=[^,]*)*)")


@dataclass(frozen=True)
class DataSet:
    """Where rows come from, and which of their columns are what."""

    name: str  # a folder, a .parquet or .tar file, or owner/name (@revision) on the hub
    split: str = "train"
    image: str | None = None  # column; None: the only one of images
    caption: str | None = None  # column; None: text, caption, prompt or txt, "": no captions
    first: int | None = None  # so many of the rows that are wanted
    config: str | None = None
    where: tuple[tuple[str, str], ...] = field(default=())  # column, value: rows that have all of them

    def __str__(self) -> str:
        """As `parse` reads it."""
        named = {name: getattr(self, name) for name in OPTIONS}
        given = [f"{name}={value}" for name, value in named.items() if value is not None]
        return ",".join([f"{self.name}:{self.split}", *given, *(f"{c}=={value}" for c, value in self.where)])

    @property
    def called(self) -> str:
        """In plain words: what its rows have in common, else its own name."""
        return self.where[-1][1] if self.where else Path(self.name.partition("@")[0]).stem

    @property
    def place(self) -> Path | None:
        """Where it lies on this machine; None: on the hub."""
        place = Path(locate(self.name))
        return place if place.exists() else None


def parse(text: str) -> DataSet | None:
    """The data set that `text` spells; None for the path of a folder or of an image. Raises UserError."""
    spelled = _SPELLED.fullmatch(text)
    if spelled is None:
        return None
    name, split, options = spelled["name"], spelled["split"], spelled["options"]
    if split is None and os.path.splitext(name)[1].lower() not in FILES:
        return None
    place = Path(locate(text))
    if place.exists() and not (place.is_file() and place.suffix.lower() in FILES):
        return None
    return _with(DataSet(name, split or "train"), text, options.split(",")[1:])


def first_of(text: str, count: int) -> str | None:
    """The same data set with at most `count` images; None where `text` spells none."""
    found = parse(text)
    return str(replace(found, first=min(count, found.first or count))) if found else None


def called(path: str) -> str:
    """The name of a folder or a file, or what a data set is called."""
    found = parse(path)
    return found.called if found else Path(path).name


def _with(found: DataSet, text: str, options: list[str]) -> DataSet:
    for option in options:
        column, _, value = option.partition("=")
        if value.startswith("="):
            found = replace(found, where=(*found.where, (column, value[1:])))
        elif column not in OPTIONS:
            raise UserError(f"{text}: {option!r} is no option of a data set; it is spelled {FORM}")
        elif column == "first":
            if not re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII):
                raise UserError(f"{text}: first={value}: expected how many images to take, as in first=5")
            found = replace(found, first=int(value))
        elif column == "image":
            found = replace(found, image=value)
        elif column == "caption":
            found = replace(found, caption=value)
        else:
            found = replace(found, config=value)
    return found


# Rows


@dataclass(frozen=True)
class Row:
    """One that is wanted."""

    number: int  # in its split
    image: bytes | None
    caption: str | None


def rows(found: DataSet) -> Iterator[Row]:
    """The rows that are wanted, read one after the other. Raises UserError."""
    from . import streaming  # `datasets` takes a second to import

    columns, stream = streaming.open_stream(found)
    image = _image_column(found, columns)
    caption = _caption_column(found, columns)
    for column in (image, caption, *(column for column, _ in found.where)):
        if column and column.partition(".")[0] not in columns:
            raise UserError(f"{found}: has no column {column!r}; it has {', '.join(columns)}")
    seen: dict[str, None] = {}
    taken = 0
    for number, row in enumerate(stream(image)):
        if not _wanted(found, columns, row, seen):
            continue
        data = streaming.bytes_of(found, number, row[image])
        yield Row(number, data, _text(found, number, row, caption))
        taken += 1
        if taken == found.first:
            return
    if not taken:
        raise UserError(f"{found}: no row to use{_instead(found, [*seen])}")


def _instead(found: DataSet, seen: list[str]) -> str:
    """What there is in place of the value that was asked for."""
    if not seen:
        return ""
    more = f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else ""
    return f"; {found.where[-1][0]} is {', '.join(seen[:SHOWN])}{more}"


def _image_column(found: DataSet, columns: Mapping[str, str]) -> str:
    if found.image:
        return found.image
    images = [name for name, kind in columns.items() if kind == "image"]
    if len(images) != 1:
        there = (
            f"image columns {', '.join(images)}" if images else f"no image column among {', '.join(columns)}"
        )
        raise UserError(f"{found}: {there}; say which one with image=COLUMN")
    return images[0]


def _caption_column(found: DataSet, columns: Mapping[str, str]) -> str | None:
    if found.caption is not None:
        return found.caption
    return next((name for name in CAPTIONS if columns.get(name) == "text"), None)


def _wanted(
    found: DataSet, columns: Mapping[str, Any], row: Mapping[str, Any], seen: dict[str, None]
) -> bool:
    """Whether it has all that is asked for. seen: takes the values of the last column asked for."""
    for column, value in found.where:
        had = _said(columns, column, _in(row, column))
        if column == found.where[-1][0]:
            seen.setdefault(had)
        if had != value:
            return False
    return True


def _said(columns: Mapping[str, Any], column: str, value: Any) -> str:
    """A value as it is written: a class label by its name."""
    names = columns.get(column)
    if isinstance(names, tuple) and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _text(found: DataSet, number: int, row: Mapping[str, Any], column: str | None) -> str | None:
    if not column:
        return None
    text = _in(row, column)
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if text is not None and not isinstance(text, str):
        raise UserError(f"{found}, row {number}: its {column} is no text; name another column with caption=")
    return text


def _in(row: Mapping[str, Any], column: str) -> Any:
    """A column's value; "json.kind": what the object in the column `json` has under `kind`."""
    value: Any = row
    for part in [column] if column in row else column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
