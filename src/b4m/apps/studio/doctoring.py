"""`b4m doctor` before a training: run once for a base model, as a process of its own; a failure stops the start."""

import subprocess
import threading
from dataclasses import dataclass

from .command import PROGRAM, arguments
from .plain import without_paths
from .project import Project

SIGNS = {"ok": True, "FAILS": False, "note": None}


@dataclass(frozen=True)
class Line:
    """One finding. good: True fine, False will fail, None worth knowing."""

    good: bool | None
    text: str


class Doctor:
    """Asks once; a failure is asked again, since it may have been put right."""

    def __init__(self, project: Project) -> None:
        self.project, self._lock, self._found = project, threading.Lock(), list[Line]()

    def findings(self) -> list[Line]:
        with self._lock:
            if not self._found or self.failures(self._found):
                self._found = self._run()
            return list(self._found)

    @staticmethod
    def failures(lines: list[Line]) -> list[Line]:
        return [line for line in lines if line.good is False]

    def _run(self) -> list[Line]:
        base = self.project.base
        given = {**base.settings(), "base_model": base.model, "output_dir": "concepts"}
        ran = subprocess.run(
            [*PROGRAM, *arguments("doctor", given)],
            cwd=self.project.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        lines = []
        for line in ran.stdout.splitlines():
            sign, _, text = line.partition(" ")
            if sign in SIGNS:
                lines.append(Line(SIGNS[sign], without_paths(text.strip(), self.project.folder)))
        if not lines:
            told = without_paths(ran.stderr, self.project.folder)[-300:]
            lines.append(Line(False, f"b4m doctor itself failed: {told}"))
        return lines
