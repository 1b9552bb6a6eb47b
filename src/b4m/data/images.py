"""Reference images: a folder or one file -> checked, upright RGB images of one size, with their captions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import UserError
from ..core.where import locate
from .captions import Caption, find_captions
from .decode import WHITE, Decoded, decode, read_bytes
from .findings import Finding
from .folder import look

FITS = ("crop", "pad")
ON_WHITE = "transparent parts are trained as white; --alpha mask leaves them out"


@dataclass(frozen=True, eq=False)
class Picture:
    """One reference image, ready for the VAE and for SDXL's size conditioning."""

    path: Path
    caption: str | None
    sha256: str  # of the file's bytes: the key of every cache
    pixels: Tensor  # (3, H, W) float32 in [-1, 1]
    original_size: tuple[int, int]  # (h, w) of the upright image before resizing
    crop_top_left: tuple[int, int]  # (y, x) of the crop in the resized image
    mask: Tensor | None = (
        None  # (1, H, W) float32: 1 where the loss counts, 0 where it does not; None: all of it
    )
    caption_from: str = ""  # what the caption was read from


@dataclass(frozen=True)
class Loaded:
    """The images of a folder, or of one file's path, and what the user should know of them."""

    pictures: list[Picture]
    findings: list[Finding]


def load_folder(folder: Path | str, size: int, fit: str = "crop") -> list[Picture]:
    """All images of a folder (not of its subfolders), sorted by name; or the one image of a file's path.

    `size`: side in pixels of the square result. `fit` "crop" scales the short side to `size` and cuts out the
    centre; "pad" scales the long side to `size` and fills up with white.
    Raises UserError for anything that cannot be read, naming the file.
    """
    return read_folder(folder, size, fit).pictures


def read_folder(folder: Path | str, size: int, fit: str = "crop", alpha: str = "white") -> Loaded:
    """`load_folder`, with what was left out of the folder, and what is odd about its images and captions.

    `alpha` "mask": images have a mask of what is opaque, and is no padding.
    """
    if size < 1 or fit not in FITS:
        raise UserError(f"images of size {size} with fit {fit!r}: expected 1 or more, and one of {FITS}")
    found = look(Path(locate(str(folder))))
    captions, findings = find_captions(found)
    pictures = []
    for path in found.images:
        picture, notes = _load(path, captions.get(path), size, fit, alpha)
        pictures.append(picture)
        findings += [Finding(path, note) for note in notes]
    return Loaded(pictures, [*found.left_out, *findings])


def open_pictures(path: Path | str) -> list[Image.Image]:
    """The upright RGB images of a folder, sorted by name, or of one file; uncut. Raises UserError."""
    return [decode(file, read_bytes(file)).rgb for file in picture_files(Path(locate(str(path))))]


def picture_files(folder: Path) -> Sequence[Path]:
    """The images of a folder, hidden files and subfolders left out; at least one, or UserError."""
    return look(folder).images


def _load(
    path: Path, caption: Caption | None, size: int, fit: str, alpha: str
) -> tuple[Picture, tuple[str, ...]]:
    """The image, and what the user should know of it."""
    data = read_bytes(path)
    image = decode(path, data)
    square, crop_top_left = _fit_crop(image.rgb, size) if fit == "crop" else _fit_pad(image.rgb, size, WHITE)
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32) / 127.5 - 1.0)  # (H, W, 3)
    picture = Picture(
        path=path,
        caption=caption.text if caption else None,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=pixels.permute(2, 0, 1).contiguous(),
        original_size=(image.rgb.height, image.rgb.width),
        crop_top_left=crop_top_left,
        mask=_mask(path, image, size, fit) if alpha == "mask" else None,
        caption_from=caption.source if caption else "",
    )
    return picture, (*image.notes, *([ON_WHITE] if image.alpha and alpha == "white" else []))


def _mask(path: Path, image: Decoded, size: int, fit: str) -> Tensor | None:
    """(1, size, size) float32 in [0, 1]; None where it would be 1 everywhere. Raises UserError where it would be 0."""
    opaque = image.alpha or Image.new("L", image.rgb.size, 255)
    square = _fit_crop(opaque, size)[0] if fit == "crop" else _fit_pad(opaque, size, 0)[0]
    mask = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255)[None]
    if mask.max() == 0:
        raise UserError(
            f"{path}: --fit crop leaves nothing but transparent parts; use --fit pad, or cut it yourself"
        )
    return mask if mask.min() < 1 else None


def _fit_crop(image: Image.Image, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """Short side to `size`, centre cut out; and the (y, x) of the cut in the resized image."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    # Only the cut is computed: an image of 1 x 100,000 pixels would grow out of memory otherwise.
    across, down = image.width / width, image.height / height  # source pixels per result pixel
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box), (top, left)


def _fit_pad(image: Image.Image, size: int, ground: Any) -> tuple[Image.Image, tuple[int, int]]:
    """Long side to `size`, centred on the colour `ground`; nothing is cut, so the crop offset is (0, 0)."""
    scale = size / max(image.size)
    width, height = (min(size, max(1, round(side * scale))) for side in image.size)
    canvas = Image.new(image.mode, (size, size), ground)
    whole = image.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(whole, ((size - width) // 2, (size - height) // 2))
    return canvas, (0, 0)
