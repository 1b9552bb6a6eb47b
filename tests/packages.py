"""A package of somebody else's, as an installer leaves it: a module, and entry points that say what it brings."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from b4m.core import registry


@contextmanager
def installed(folder: Path, group: str, code: str, **entries: str) -> Iterator[None]:
    """Beside b4m for as long as it lasts: the module `brought` with `code`, and `entries`, name -> attribute of it."""
    about = folder / "brought-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    lines = [f"{name} = brought:{attribute}" for name, attribute in entries.items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    (folder / "brought.py").write_text(code)
    sys.path.insert(0, str(folder))
    _look_again()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("brought", None)
        _look_again()


def _look_again() -> None:
    """What is installed is looked up once in a process."""
    importlib.invalidate_caches()
    registry._entries.cache_clear()
