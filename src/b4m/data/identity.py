"""What reference images are, wherever they lie and whatever they are called: hashes by which work on them is kept."""

import hashlib
from pathlib import Path

from ..core.errors import UserError
from ..core.storage import reason
from ..core.where import locate
from .captions import find_captions
from .dataset import parse
from .folder import look
from .formats import named
from .references import references

Identity = tuple[tuple[str, str | None], ...]  # of each image, in the order of their names: sha256, caption


def is_reference(path: str) -> bool:
    """Whether `path` leads to images: a folder, a file with the name of an image, or a data set."""
    place = Path(locate(path))
    return not place.is_file() or named(place.suffix) is not None or parse(path) is not None


def identity(path: str) -> Identity:
    """Of the images that `load_folder` would read from `path`, and their captions. Raises UserError."""
    found = look(references(path))
    captions, _ = find_captions(found)
    return tuple(
        (file_hash(image), (captions[image].text or None) if image in captions else None)
        for image in found.images
    )


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes. Raises UserError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check its permissions") from error
