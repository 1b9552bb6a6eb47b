"""The header of a safetensors file, without torch: what a card shows of a file that was checked when it came in."""

import json
from pathlib import Path

from ...core.errors import UserError

MAX_HEADER = 32 * 2**20  # as in core.storage


def read_header(path: Path) -> dict[str, str]:
    """The metadata. Raises UserError for a file that is not there or is no safetensors file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > MAX_HEADER:
                raise ValueError("its header is too long")
            found = json.loads(file.read(size)).get("__metadata__") or {}
        return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path.name}: cannot be read ({' '.join(str(error).split())[:120]}); get it again"
        ) from error
