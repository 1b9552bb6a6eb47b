"""The rows of a data set through Hugging Face `datasets`, one after the other, images as their own bytes."""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..core.errors import UserError
from ..core.storage import reason
from .dataset import FILES, DataSet
from .decode import MAX_BYTES

Columns = Mapping[str, Any]  # name -> "image", "text", the names of a class label, or "" for anything else
SLOW = 3  # seconds after which reading shows how far it is


class NotReached(UserError):
    """The hub cannot be reached now: the data set may be there all the same."""


def open_stream(found: DataSet) -> tuple[Columns, Callable[[str], Iterator[Mapping[str, Any]]]]:
    """Its columns, and what yields its rows with a given image column undecoded. Raises UserError."""
    stream = _opened(found)
    columns = {name: _kind(feature) for name, feature in stream.features.items()}
    return columns, lambda image: _rows(found, stream, image)


def bytes_of(found: DataSet, number: int, image: Mapping[str, Any] | None) -> bytes | None:
    """Of the undecoded image in a row; None where it has none. Raises UserError for one that lies elsewhere."""
    import fsspec

    if image is None or image["bytes"] is None and not image["path"]:
        return None
    if image["bytes"] is not None:
        return image["bytes"]
    if not _within(found, image["path"]):
        raise UserError(
            f"{found}, row {number}: names an image that is not part of the data set: {image['path']}"
        )
    try:
        filesystem, place = fsspec.url_to_fs(image["path"])
        return filesystem.cat_file(place, end=MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{found}, row {number}: its image cannot be read ({reason(error)})") from error


def _within(found: DataSet, path: str) -> bool:
    """Whether a file belongs to the data set: a stranger's table may name any other, here or on the net."""
    outer = path.rpartition("::")[2]  # zip://a.png::/data/images.zip
    if found.place is None and outer.startswith(f"hf://datasets/{found.name.partition('@')[0]}"):
        return True
    inside = _downloads() if found.place is None else [found.place] if found.place.is_dir() else []
    return any(Path(outer).resolve().is_relative_to(folder.resolve()) for folder in inside)


def _downloads() -> list[Path]:
    """Where `datasets` and the hub keep files that they have downloaded."""
    import datasets
    from huggingface_hub import constants

    return [Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]


def _opened(found: DataSet) -> Any:
    if find_spec("datasets") is None:
        raise UserError(f'{found}: a data set needs datasets: pip install "b4m[datasets]"')
    import datasets
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    WebDataset.DECODERS.pop("pth", None)  # nothing pickled is read from what a stranger may have sent
    try:
        stream = datasets.load_dataset(**_source(found), name=found.config, split=found.split, streaming=True)
        if stream.features is None:
            raise ValueError("its columns have no types")
        return stream
    except Exception as error:  # whatever `datasets` and the hub have to say
        raise _refusal(found, error) from error


def _source(found: DataSet) -> dict[str, Any]:
    """What `load_dataset` is told. A folder of images is one whatever texts lie in it, which it would go by."""
    place = found.place
    if place is None:
        name, _, revision = found.name.partition("@")
        return {"path": name, "revision": revision or None}
    if place.is_file():
        return {"path": FILES[place.suffix.lower()], "data_files": [str(place)]}
    tables = (path for path in place.rglob("*") if path.suffix.lower() in FILES and path.stem != "metadata")
    return {"path": str(place)} if any(tables) else {"path": "imagefolder", "data_dir": str(place)}


def _refusal(found: DataSet, error: Exception) -> UserError:
    what = reason(error)
    if found.place is None and isinstance(error, ConnectionError):
        return NotReached(
            f"{found}: not on this machine, and the hub cannot be reached ({what}); go online once, or give a folder"
        )
    if found.place is None:
        what += "; nothing of this name lies here either"
    return UserError(f"{found}: no data set that can be read ({what})")


def _kind(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Image) or isinstance(feature, dict) and {*feature} == {"bytes", "path"}:
        return "image"
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    return "text" if getattr(feature, "dtype", "") in ("string", "large_string") else ""


def _rows(found: DataSet, stream: Any, image: str) -> Iterator[Mapping[str, Any]]:
    import datasets

    images = {name for name, feature in stream.features.items() if isinstance(feature, datasets.Image)}
    try:
        for name in {image, *images}:
            stream = stream.cast_column(name, datasets.Image(decode=False))
        yield from tqdm(stream, desc=str(found), unit=" rows", delay=SLOW, leave=False)
    except UserError:
        raise
    except Exception as error:
        raise _refusal(found, error) from error
