"""Settings fields: each carries its help line and its checks; values from YAML and flags become its type.

Not pydantic: it takes True for 1 and "yes" for true, refuses one text where a list is meant, names neither the flag nor
what to do, and takes as long to import as `b4m --help` takes in all; to put that right is as much code as these checks.
"""

import math
import os
import re
import types
import typing
from collections.abc import Sequence
from copy import copy
from dataclasses import MISSING, Field, field, fields
from functools import cache
from pathlib import Path
from typing import Any, NewType

import yaml

from ..core.errors import UserError
from ..core.where import locate

InputPath = NewType("InputPath", str)  # a file or folder that is read: what lies behind it decides a result
OutputPath = NewType("OutputPath", str)  # one that is written
ModelName = NewType("ModelName", str)  # a folder or a Hugging Face name
PATHS = (InputPath, OutputPath, ModelName)
Size = NewType(
    "Size", str
)  # of an image, in pixels: 1024 for a square, "1216x832" (width, height) for others
UNIONS = (types.UnionType, typing.Union)

MAX_TEXT = 4000  # characters: no path is longer, and no prompt is read that far
MAX_NAME = 255  # of one name in a path
MAX_RANGE = 10_000  # numbers that "0..9999" may stand for


def setting(
    doc: str,
    default: Any = MISSING,
    choices: tuple = (),
    low: float = -math.inf,
    high: float = math.inf,
    affects_result: bool = True,
) -> Any:
    """A dataclass field with its help line and its checks.

    affects_result: whether another value may give another result. Resume, caches, the keys of studies and the facts
    in images all follow from this flag alone.
    """
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high, "affects_result": affects_result}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def is_path(hint: Any, *kinds: Any) -> bool:
    """Whether a field of type `hint` holds a path of one of `kinds` (one of PATHS, if none is named)."""
    parts = {hint, *typing.get_args(hint)}
    return bool(parts & set(kinds or PATHS))


@cache
def deciding(cls: type, paths: bool = False) -> tuple[Field, ...]:
    """The fields whose values decide the result; input paths, behind which other things may lie, only if `paths`."""
    hints = _hints(cls)
    left_out = (OutputPath,) if paths else (OutputPath, InputPath)
    return tuple(
        f for f in fields(cls) if f.metadata["affects_result"] and not is_path(hints[f.name], *left_out)
    )


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of the fields, found once: a study makes tens of thousands of configurations."""
    return typing.get_type_hints(cls)


def flag(name: str) -> str:
    """The flag of a field: "base_model" -> "--base-model"."""
    return "--" + name.replace("_", "-")


def check(config: Any) -> None:
    """Types, choices and limits of every field; numbers spelled as text become numbers, lists tuples."""
    for f in fields(config):
        _set(config, f, getattr(config, f.name))


def changed(config: Any, **values: Any) -> Any:
    """A copy with other values, of which only types, choices and limits are checked: a tenth of `replace`'s time.

    For a library's million settings that differ in texts and paths; where fields depend on each other, `replace` it is.
    """
    made = copy(config)
    for name, value in values.items():
        _set(made, config.__dataclass_fields__[name], value)
    return made


def _set(config: Any, f: Field, value: Any) -> None:
    """Raises UserError for a value that the field cannot take."""
    hint = _hints(type(config))[f.name]
    value = convert(f.name, hint, value)
    object.__setattr__(config, f.name, value)
    values = sides(value) if hint is Size else value
    for item in values if isinstance(values, tuple) else (values,):
        _check_one(f, item, is_path(hint))


def _check_one(f: Field, value: Any, path: bool) -> None:
    """Choices and limits of one number or text."""
    if f.metadata["choices"] and value not in f.metadata["choices"]:
        raise UserError(f"{flag(f.name)} {value!r}: choose one of {', '.join(f.metadata['choices'])}")
    low, high = f.metadata["low"], f.metadata["high"]
    if isinstance(value, int | float) and not low <= value <= high:
        limit = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise UserError(f"{flag(f.name)} {value}: must be {limit}")
    if isinstance(value, str):
        _check_text(f, value, path)


def _check_text(f: Field, text: str, path: bool) -> None:
    """Raise UserError for text that cannot be written to a result, or names no file on any machine."""
    if not text and path:
        raise UserError(f"{flag(f.name)} is empty: {f.metadata['doc']}")
    long = len(text) > MAX_TEXT or path and max(map(len, text.split("/"))) > MAX_NAME
    if long or "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"{flag(f.name)} {text[:40]!a}: too long, or not UTF-8 text; rename the folder or the file"
        )


def convert(name: str, hint: Any, value: Any) -> Any:
    """`value` (from YAML, a flag or a caller) as the type `hint` of the field `name`, or UserError."""
    if hint is Any:
        return value
    if hint is Size:
        return _size(name, value)
    hint = getattr(hint, "__supertype__", hint)  # of a path
    if typing.get_origin(hint) in UNIONS:  # X | None
        return None if value is None else convert(name, typing.get_args(hint)[0], value)
    if typing.get_origin(hint) is tuple:
        values = [value] if isinstance(value, str | int | os.PathLike) else value
        if not isinstance(values, list | tuple):
            raise _wrong(name, hint, value)
        kind = typing.get_args(hint)[0]
        values = [each for item in values for each in (_in_range(name, item) if kind is int else [item])]
        return tuple(convert(name, kind, item) for item in values)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _wrong(name, hint, value)
        return {key: convert(name, typing.get_args(hint)[1], item) for key, item in value.items()}
    if hint in (str, bool):
        value = os.fspath(value) if hint is str and isinstance(value, os.PathLike) else value
        if not isinstance(value, hint):
            raise _wrong(name, hint, value)
        return value
    try:
        number = hint(value)  # of text too: flags are text, and YAML reads 1e-4 as text
        finite = math.isfinite(number)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(name, hint, value) from None
    if isinstance(value, bool) or not finite or not isinstance(value, str) and number != value:
        raise _wrong(name, hint, value)
    return number


def sides(size: int | str) -> tuple[int, int]:
    """Width and height of a `Size`."""
    width, _, height = str(size).partition("x")
    return int(width), int(height or width)


def _size(name: str, value: Any) -> int | str:
    """A `Size` from text, a number, or a width and a height."""
    parts = value if isinstance(value, list | tuple) else [value]
    text = "x".join(part if isinstance(part, str) else _brief(part) for part in parts)
    both = re.fullmatch(r"(\d{1,9})(?:\s*[xX×]\s*(\d{1,9}))?", text.strip(), re.ASCII)
    if both is None:
        raise _wrong(name, Size, value)
    width, height = int(both[1]), int(both[2] or both[1])
    return width if width == height else f"{width}x{height}"


def _in_range(name: str, value: Any) -> Sequence[Any]:
    """The numbers that "0..31" stands for; anything else as it is."""
    if not isinstance(value, str) or re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return [value]
    ends = re.fullmatch(r"(\d{1,19})\.\.(\d{1,19})", value, re.ASCII)
    if ends is None:
        raise UserError(
            f"{flag(name)} {_brief(value)}: expected whole numbers, or a range of them as in 0..31"
        )
    first, last = map(int, ends.groups())
    if not first <= last < first + MAX_RANGE:
        raise UserError(f"{flag(name)} {value}: a range goes up, by less than {MAX_RANGE:,} numbers")
    return range(first, last + 1)


def _wrong(name: str, hint: Any, value: Any) -> UserError:
    return UserError(f"{flag(name)} {_brief(value)}: expected {_expected(hint)}")


def _brief(value: Any) -> str:
    """A value as an error line shows it; Python itself refuses to write out a number of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return "of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _expected(hint: Any) -> str:
    if hint is Size:
        return "a number of pixels, or width and height as in 1216x832"
    hint = getattr(hint, "__supertype__", hint)
    if typing.get_origin(hint) in UNIONS:
        return _expected(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        return "a list, each " + _expected(typing.get_args(hint)[0])
    if typing.get_origin(hint) is dict:
        return "lines of the form 'name: value'"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[hint]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in one YAML file, keys with dashes or underscores. Raises UserError."""
    try:
        values = yaml.safe_load(Path(locate(str(path))).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        AttributeError,
    ) as error:  # all from PyYAML, for odd files
        raise UserError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: expected lines of the form 'name: value'")
    return {key.replace("-", "_"): value for key, value in values.items()}


def to_yaml(config: Any) -> str:
    """The settings as YAML that `resolve` reads back to the same settings."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
