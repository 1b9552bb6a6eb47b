"""Where the examples that come with b4m lie: in a clone's `examples/`, in an installed package inside it."""

import os
from glob import glob
from pathlib import Path

EXAMPLES = "examples/"
_PACKAGE = Path(__file__).resolve().parents[1]
_HOME = _PACKAGE if (_PACKAGE / EXAMPLES).is_dir() else _PACKAGE.parents[1]  # of a wheel, of a clone


def locate(name: str) -> str:
    """The path to open for `name`: itself, or the shipped one for `examples/...` that is not there.

    Settings, file headers and study keys keep the name; only what opens a file asks here. So one command gives the
    same bits in a clone, beside it and without one.
    """
    if name.startswith(EXAMPLES) and not os.path.exists(name):
        shipped = str(_HOME / name)
        return shipped if os.path.exists(shipped) else name
    return name


def same(name: str, other: str) -> bool:
    """Whether both name one place: `examples/x`, `./examples/x` and its full path do, from wherever one looks."""
    places = (os.path.realpath(os.path.expanduser(locate(each))) for each in (name, other))
    return next(places) == next(places)


def matches(pattern: str) -> list[str]:
    """The names that `pattern` matches, sorted; for a pattern of `examples/...` without any here, the shipped ones."""
    found = glob(pattern)
    if not found and pattern.startswith(EXAMPLES):
        found = glob(pattern, root_dir=_HOME)
    return sorted(found)
