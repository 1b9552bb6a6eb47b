"""Settings as the command that does the same: what the studio starts, and what a page shows to be copied."""

import shlex
import sys
from collections.abc import Mapping
from typing import Any

from ...config.fields import flag

PROGRAM = (sys.executable, "-P", "-m", "b4m")  # -P: nothing in the folder it runs in is imported


def arguments(command: str, settings: Mapping[str, Any]) -> list[str]:
    """["train-content", "--steps", "100", "--no-routing", ...]; what is None is left out."""
    given = [command]
    for name, value in settings.items():
        if value is None or value == ():
            continue
        if isinstance(value, bool):
            given.append(flag(name) if value else flag(f"no_{name}"))
        elif isinstance(value, list | tuple):
            given += [flag(name), *map(str, value)]
        else:
            given += [flag(name), str(value)]
    return given


def shown(given: list[str]) -> str:
    """For a shell, a flag a line."""
    lines, line = [], ["b4m"]
    for word in given:
        if word.startswith("--"):
            lines.append(shlex.join(line))
            line = []
        line.append(word)
    lines.append(shlex.join(line))
    return " \\\n    ".join(lines)
