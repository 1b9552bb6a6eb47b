"""The card's images: decoded and written anew, so that nothing but pixels leaves this machine."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...core.errors import UserError
from ...data.decode import decode, read_bytes
from ...data.images import picture_files
from .about import line

MOST = 32


@dataclass(frozen=True)
class Picture:
    """One image of the card. prompt: what an image that b4m has drawn says of itself, or ""."""

    name: str  # in the repository
    data: bytes  # PNG
    prompt: str


def pictures(paths: Sequence[str]) -> list[Picture]:
    """The images behind `paths`, files or folders, in their order. Raises UserError."""
    files = [file for path in paths for file in picture_files(path)]
    if len(files) > MOST:
        raise UserError(
            f"--images: {len(files)} images, a card takes {MOST}; choose the ones that show it best"
        )
    return [_picture(f"images/{number}.png", file) for number, file in enumerate(files, 1)]


def _picture(name: str, file: Path) -> Picture:
    data = read_bytes(file)
    seen = decode(file, data).rgb
    stream = io.BytesIO()
    Image.frombytes("RGB", seen.size, seen.tobytes()).save(
        stream, "PNG"
    )  # an image of Pillow's keeps profiles
    return Picture(name, stream.getvalue(), _prompt(data))


def _prompt(data: bytes) -> str:
    """The text entry that `b4m generate` writes into a PNG; the pixels behind it are decoded already."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            return line(getattr(image, "text", {}).get("prompt", ""))
    except Exception:  # no PNG, or whatever a stranger has written there
        return ""
