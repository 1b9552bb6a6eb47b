"""What the user should know of the files that were given: nothing is left out without a line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN = 3  # files of a line; all of them are in pictures.json
LONGEST = 160  # characters of a detail in a line


@dataclass(frozen=True)
class Finding:
    """Something about one file."""

    file: Path
    what: str  # the same text for all files that share it
    detail: str = ""  # of this file alone

    @property
    def text(self) -> str:
        return f"{self.what}: {self.detail}" if self.detail else self.what


def lines(findings: Iterable[Finding]) -> list[str]:
    """A line for everything that was found, with the files that it was found of."""
    files: dict[str, list[str]] = {}
    for finding in findings:
        name, detail = str(Path(*finding.file.parts[-2:])), brief(finding.detail)
        told = f"{name} ({detail})" if detail else name
        files.setdefault(finding.what, []).append(told)
    return [f"{what}: {some(names)}" for what, names in files.items()]


def brief(text: str) -> str:
    """Its beginning and its end, where it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def quoted(text: str) -> str:
    return f'"{text}"'


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
