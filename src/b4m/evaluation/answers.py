"""What models said of images, in words or numbers: asked once, kept in a folder for later runs."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.storage import reason, write_text


class Answers:
    """Answers by key. `folder`: where they are kept, of one model: nothing but the key may decide an answer.

    Raises UserError for a file there that holds none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, Any] = {}
        if folder is not None and folder.is_dir():
            for file in sorted(folder.glob("*.json")):
                self._known |= _read(file)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, new: Mapping[str, Any]) -> None:
        """Know these from now on. A file for each call: nothing is ever rewritten, and processes can share a folder."""
        self._known |= new
        if new and self._folder is not None:
            write_text(self._folder / f"{uuid.uuid4().hex}.json", json.dumps(new, ensure_ascii=False))


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); delete it, it is made again") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds no answers; delete it, it is made again")
    return found
