"""Files that are never half-written and never trusted: safetensors written atomically, and read with every check.

Shared by the pictures, the concept and LoRA files and the training state. Nothing here knows the method. The atomic
writes themselves (`atomic`) go by this module's name, too.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from .atomic import PARTIAL, Taken, reason, sweep, sync, write_atomic, write_text
from .errors import UserError

__all__ = [
    "PARTIAL",
    "Taken",
    "check_floats",
    "fingerprint",
    "own",
    "read_header",
    "read_tensors",
    "reason",
    "sweep",
    "sync",
    "write_atomic",
    "write_tensors",
    "write_text",
]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MAX_BYTES = 16 * 2**30  # of a file of tensors: more than any LoRA, and than a whole UNet of SDXL in float32
MAX_HEADER = 32 * 2**20  # of its header: tags and settings of some trainers come to a few megabytes
# What else is given for a file of tensors, by its first bytes.
_OTHERS = {
    b"PK": "is a zip archive, as pickled weights are (.pt, .ckpt, .bin), which could run a program and are not read; "
    "unpack it, or convert it to .safetensors where you trust it",
    b"\x80": "is pickled, which could run a program, and is not read; convert it to .safetensors where you trust it",
    b"version ": "is a pointer of Git LFS in place of the file; download the file itself",
    b"<": "is a web page in place of the file; download it again, signed in where its site asks for that",
}


def own(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing, as safetensors demands."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file, atomically. Same tensors and metadata, same bytes."""
    ready = {name: own(tensors[name]) for name in sorted(tensors)}
    header = {"format": "pt", **{key: metadata[key] for key in sorted(metadata)}}
    data = save(ready, metadata=header)
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    entries["__metadata__"] = header  # the library writes these in an order that differs from run to run
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.write(memoryview(data)[start:])

    write_atomic(path, write)


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, on the CPU and independent of the file afterwards.

    Raises UserError for a missing, truncated, foreign or enormous file, and for one with two tensors of a name.
    """
    path = Path(path)
    with _checked(path):
        if odd := _odd_metadata(path):  # the library reads text by name and nothing else
            tensors, metadata = load(_plain_header(path)), odd
        else:
            with safe_open(path, framework="pt", device="cpu") as file:
                # Cloned, because a mapped tensor changes or dies with the file under it.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
                metadata = dict(file.metadata() or {})
    _check_names(path)
    if odd := [name for name, tensor in tensors.items() if tensor.is_complex()]:
        raise UserError(f"{path}: {odd[0]} holds complex numbers; the file is nothing of b4m's")
    return tensors, metadata


def read_header(path: Path | str) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
    """Dtype and shape of each tensor of a safetensors file, and its metadata; no tensor is read.

    Dtypes are named as in the file: "F16". Raises UserError as `read_tensors` does.
    """
    path = Path(path)
    with _checked(path), safe_open(path, framework="pt", device="cpu") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}
        entries = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
        metadata = dict(file.metadata() or {})
    _check_names(path)
    return entries, metadata


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Around the reading of a file of a size that is allowed; what goes wrong with it is a UserError."""
    if not os.path.isfile(path):  # unlike Path.is_file: False also for a name that no file can have
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{path}: {found}; give the path of a .safetensors file")
    _check_sizes(path)
    try:
        yield
    except (OSError, SafetensorError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({reason(error)}); copy or download it again"
        ) from error


def _check_sizes(path: Path) -> None:
    """Before anything is read into memory: the file's size, and what it says of its header's."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check its permissions") from error
    header = int.from_bytes(first, "little")
    if header > MAX_HEADER:
        for start, what in _OTHERS.items():
            if first.startswith(start):
                raise UserError(f"{path}: {what}")
    for what, found, limit in (("it", size, MAX_BYTES), ("its header", min(header, size), MAX_HEADER)):
        if found > limit:
            raise UserError(
                f"{path}: {what} has {found:,} bytes, {limit:,} are allowed; give a LoRA or concept file"
            )


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), MAX_HEADER))


def _odd_metadata(path: Path) -> dict[str, str]:
    """Metadata in which some tool has put numbers, null or whole objects, as text; none where it is as it should be."""
    try:
        found = json.loads(_header(path)).get("__metadata__")
    except (ValueError, RecursionError, AttributeError):
        return {}  # for the library to refuse
    if not isinstance(found, dict) or all(isinstance(value, str) for value in found.values()):
        return {}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}


def _plain_header(path: Path) -> bytes:
    """The file without its metadata."""
    text = _header(path)
    entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
    plain = json.dumps(entries).encode()
    return len(plain).to_bytes(8, "little") + plain + path.read_bytes()[8 + len(text) :]


def _check_names(path: Path) -> None:
    """Two entries of one name: readers differ in which they take, so what was checked may not be what is used."""
    text = _header(path)

    def once(pairs: list[tuple[str, object]]) -> dict:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: two entries named {double}; get the file from elsewhere")
        return dict(pairs)

    json.loads(text, object_pairs_hook=once)


def fingerprint(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over names, dtypes, shapes and bytes of all tensors, and over the metadata given."""
    digest = hashlib.sha256()
    for key in sorted(metadata):
        digest.update(f"{key!r}={metadata[key]!r}\n".encode())
    for name in sorted(tensors):
        tensor = own(tensors[name])
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_floats(where: str, tensors: Mapping[str, Tensor], dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """Raise UserError, led by `where`, for anything but finite matrices of the given dtypes."""
    for name, tensor in tensors.items():
        if tensor.dtype not in dtypes:
            wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            found = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{where}: {name} is {found}, expected {wanted}; save it again as one of these")
        if tensor.dim() != 2:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, expected a matrix; get the file again"
            )
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{where}: {name} holds NaN or infinite values; train again, at a lower learning rate"
            )
