"""Reference pictures: a folder or one file -> checked, upright RGB pictures of one size, with their captions.

Everything a camera or an editor may hand over is settled here, before any model is loaded: rotation,
transparency, palettes, CMYK and 16 bits are converted; what cannot be read is refused with one line that
names the file.
"""

import hashlib
import io
import json
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import reason
from ..core.where import locate

FORMATS = ("JPEG", "PNG", "WEBP")  # all that Pillow may try: its rarer decoders are its weak ones
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FITS = ("crop", "pad")
MAX_PIXELS = 50_000_000  # about 48 megapixels is the largest picture of today's telephones
MAX_SIDE = 65_535  # of a JPEG; a longer side would take gigabytes to scale down
MAX_BYTES = 512 * 2**20  # of one file: more than MAX_PIXELS in 16 bits with transparency, uncompressed
MAX_CAPTION, MAX_METADATA = 2**16, 2**24  # bytes of a caption's file, and of metadata.jsonl
WHITE = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Picture:
    """One reference picture, ready for the VAE and for SDXL's size conditioning."""

    path: Path
    caption: str | None
    sha256: str  # of the file's bytes: the key of every cache
    pixels: Tensor  # (3, H, W) float32 in [-1, 1]
    original_size: tuple[int, int]  # (h, w) of the upright picture before resizing
    crop_top_left: tuple[int, int]  # (y, x) of the crop in the resized picture


def load_folder(folder: Path | str, size: int, fit: str = "crop") -> list[Picture]:
    """All pictures of a folder (not of its subfolders), sorted by name; or the one picture of a file's path.

    `size`: side in pixels of the square result. `fit` "crop" scales the short side to `size` and cuts out the
    centre; "pad" scales the long side to `size` and fills up with white.
    Raises UserError for anything that cannot be read, naming the file.
    """
    if size < 1 or fit not in FITS:
        raise UserError(f"pictures of size {size} with fit {fit!r}: expected 1 or more, and one of {FITS}")
    folder = Path(locate(str(folder)))
    files = picture_files(folder)
    captions = _read_metadata((folder if folder.is_dir() else folder.parent) / "metadata.jsonl")
    return [_load(path, _caption(path, captions), size, fit) for path in files]


def open_pictures(path: Path | str) -> list[Image.Image]:
    """The upright RGB pictures of a folder, sorted by name, or of one file; uncut. Raises UserError."""
    return [_decode(file, _read(file)) for file in picture_files(Path(locate(str(path))))]


def picture_files(folder: Path) -> list[Path]:
    """Paths with a picture's suffix, hidden files and subfolders left out; at least one, or UserError."""
    try:
        if not folder.is_dir():
            folder.stat()  # raises for a missing path and for a link to nowhere
            if folder.suffix.lower() not in SUFFIXES:
                raise UserError(
                    f"{folder}: not a JPEG, PNG or WebP picture by its name; give one, or a folder"
                )
            return [folder]
        names = sorted(entry.name for entry in folder.iterdir())
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(
            f"{folder}: cannot be opened ({reason(error)}); give a folder of pictures or one picture"
        ) from error
    visible = [folder / name for name in names if not name.startswith(".")]
    files = [path for path in visible if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    if not files:
        seen = ", ".join(path.name for path in visible[:3]) or "nothing"
        raise UserError(
            f"{folder}: no picture in this folder (found {seen}); "
            f"put JPEG, PNG or WebP files ({' '.join(SUFFIXES)}) directly into it"
        )
    return files


def _load(path: Path, caption: str | None, size: int, fit: str) -> Picture:
    data = _read(path)
    image = _decode(path, data)
    square, crop_top_left = _fit_crop(image, size) if fit == "crop" else _fit_pad(image, size)
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32) / 127.5 - 1.0)  # (H, W, 3)
    return Picture(
        path=path,
        caption=caption,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=pixels.permute(2, 0, 1).contiguous(),
        original_size=(image.height, image.width),
        crop_top_left=crop_top_left,
    )


def _read(path: Path) -> bytes:
    """The file's bytes, read once so that hash and pixels belong to the same content."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path}: a broken link or not a regular file; remove it or repair the link")
    _check_bytes(path, MAX_BYTES)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check its permissions") from error
    if not data:
        raise UserError(f"{path}: the file is empty (0 bytes); copy it again or remove it")
    return data


def _check_bytes(path: Path, limit: int) -> None:
    if (size := path.stat().st_size) > limit:
        raise UserError(f"{path}: {size:,} bytes, {limit:,} are allowed; is this the right file?")


def _decode(path: Path, data: bytes) -> Image.Image:
    """The upright RGB picture in a file's bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own pixel warning: the cap below is an error
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE:
                # A telephone's JPEG may carry a depth map or a second view (MPO): frame 1 is the photograph.
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    raise UserError(f"{path}: an animation; save the frame you want as a PNG or JPEG")
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{path}: not a JPEG, PNG or WebP picture, whatever its name says; convert it or remove it"
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {_too_large()}") from error
    except Exception as error:  # a decoder fed with damaged bytes may raise anything at all
        raise UserError(
            f"{path}: damaged or cut off ({reason(error)}); copy it again, or open and re-save it"
        ) from error
    raise UserError(f"{path}: {width} x {height} pixels; {_too_large()}")


def _too_large() -> str:
    return f"{MAX_PIXELS / 1e6:g} million pixels and sides of {MAX_SIDE} are allowed; scale the picture down"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode Pillow decodes -> 8-bit RGB: 16 bits scaled (not clipped), transparency laid over white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit gray at 255, which makes nearly every such picture white.
        levels = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image)
    return image.convert("RGB")


def _fit_crop(image: Image.Image, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """Short side to `size`, centre cut out; and the (y, x) of the cut in the resized picture."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    # Only the cut is computed: a picture of 1 x 100,000 pixels would grow out of memory otherwise.
    across, down = image.width / width, image.height / height  # source pixels per result pixel
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box), (top, left)


def _fit_pad(image: Image.Image, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """Long side to `size`, centred on white; nothing is cut, so the crop offset is (0, 0)."""
    scale = size / max(image.size)
    width, height = (min(size, max(1, round(side * scale))) for side in image.size)
    canvas = Image.new("RGB", (size, size), WHITE)
    whole = image.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(whole, ((size - width) // 2, (size - height) // 2))
    return canvas, (0, 0)


def _caption(path: Path, captions: dict[str, str]) -> str | None:
    """The text beside the picture (.txt, then .caption), else its line of metadata.jsonl, else None."""
    for suffix in (".txt", ".caption"):
        beside = path.with_suffix(suffix)
        if beside.is_file():
            return _one_line(_read_text(beside, MAX_CAPTION))
    return captions.get(_key(path.name))


def _read_metadata(path: Path) -> dict[str, str]:
    """metadata.jsonl, one {"file_name": ..., "text": ...} per line -> {file name: caption}."""
    if not path.is_file():
        return {}
    # Names compare in one Unicode form: a folder that has been on a Mac spells "é" in two characters.
    present = {_key(entry.name) for entry in path.parent.iterdir()}
    captions: dict[str, str] = {}
    for number, line in enumerate(_read_text(path, MAX_METADATA).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, text = _metadata_line(where, line)
        if name not in present:
            raise UserError(f"{where}: {name} is not in this folder; correct or remove the line")
        if name in captions:
            raise UserError(f"{where}: a second entry for {name}; keep one")
        captions[name] = text
    return {name: caption for name, text in captions.items() if (caption := _one_line(text)) is not None}


def _metadata_line(where: str, line: str) -> tuple[str, str]:
    example = '{"file_name": "01.jpg", "text": "a caption"}'
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({reason(error)}); write it like {example}") from error
    name, text = (entry.get("file_name"), entry.get("text", "")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(text, str):
        raise UserError(f"{where}: needs a file_name and a text, both strings; write it like {example}")
    return _key(name), text


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _read_text(path: Path, limit: int) -> str:
    _check_bytes(path, limit)
    try:
        return path.read_text(encoding="utf-8-sig")  # with or without the mark that Windows editors put first
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as UTF-8 text ({reason(error)}); save it as UTF-8"
        ) from error


def _one_line(text: str) -> str | None:
    """Captions are prompts: one line, or None where nothing is written."""
    return " ".join(text.split()) or None
