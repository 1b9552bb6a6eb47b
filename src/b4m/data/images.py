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
from .buckets import bucket
from .captions import Caption, find_captions
from .decode import WHITE, Decoded, decode, read_bytes
from .findings import Finding
from .folder import look
from .references import findings_of, references

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
    latents: Tensor | None = (
        None  # (c, h, w) float32, normalized: of an image that was never pixels; None: encode
    )


def whole(size: int) -> Picture:
    """What stands for an image that no file holds, of `size` pixels a side, neither scaled nor cropped."""
    return Picture(Path(), None, "", torch.zeros(()).expand(3, size, size), (size, size), (0, 0))


@dataclass(frozen=True)
class Loaded:
    """The images of a folder, or of one file's path, and what the user should know of them."""

    pictures: list[Picture]
    findings: list[Finding]


def load_folder(folder: Path | str, size: int, fit: str = "crop") -> list[Picture]:
    """All images of a folder (not of its subfolders), sorted by name; a file's one; a data set's, by row.

    `size`: side in pixels of the square result. `fit` "crop" scales the short side to `size` and cuts out the
    centre; "pad" scales the long side to `size` and fills up with white.
    Raises UserError for anything that cannot be read, naming the file.
    """
    return read_folder(folder, size, fit).pictures


def read_folder(
    folder: Path | str, size: int, fit: str = "crop", alpha: str = "white", buckets: bool = False
) -> Loaded:
    """`load_folder`, with what was left out of the folder, and what is odd about its images and captions.

    `alpha` "mask": images have a mask of what is opaque, and is no padding. `buckets`: images have the shape of
    `data.buckets` that is closest to their own, in place of the square.
    """
    if size < 1 or fit not in FITS:
        raise UserError(f"images of size {size} with fit {fit!r}: expected 1 or more, and one of {FITS}")
    place = references(folder)
    found = look(place)
    captions, findings = find_captions(found)
    pictures = []
    for path in found.images:
        picture, notes = _load(path, captions.get(path), size, fit, alpha, buckets)
        pictures.append(picture)
        findings += [Finding(path, note) for note in notes]
    return Loaded(pictures, [*findings_of(folder), *found.left_out, *findings])


def open_pictures(path: Path | str) -> list[Image.Image]:
    """The upright RGB images of a folder, sorted by name, of one file or of a data set; uncut. Raises UserError."""
    return [decode(file, read_bytes(file)).rgb for file in picture_files(path)]


def picture_files(path: Path | str) -> Sequence[Path]:
    """The images of a folder, hidden files and subfolders left out, or of a data set; at least one, or UserError."""
    return look(references(path)).images


def _load(
    path: Path, caption: Caption | None, size: int, fit: str, alpha: str, buckets: bool
) -> tuple[Picture, tuple[str, ...]]:
    """The image, and what the user should know of it."""
    data = read_bytes(path)
    image = decode(path, data)
    shape = bucket(image.rgb.height, image.rgb.width, size) if buckets else (size, size)
    fitted, crop_top_left = (
        _fit_crop(image.rgb, shape) if fit == "crop" else _fit_pad(image.rgb, shape, WHITE)
    )
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 127.5 - 1.0)  # (H, W, 3)
    picture = Picture(
        path=path,
        caption=caption.text if caption else None,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=pixels.permute(2, 0, 1).contiguous(),
        original_size=(image.rgb.height, image.rgb.width),
        crop_top_left=crop_top_left,
        mask=_mask(path, image, shape, fit) if alpha == "mask" else None,
        caption_from=caption.source if caption else "",
    )
    return picture, (*image.notes, *([ON_WHITE] if image.alpha and alpha == "white" else []))


def _mask(path: Path, image: Decoded, shape: tuple[int, int], fit: str) -> Tensor | None:
    """(1, *shape) float32 in [0, 1]; None where it would be 1 everywhere. Raises UserError where it would be 0."""
    opaque = image.alpha or Image.new("L", image.rgb.size, 255)
    fitted = _fit_crop(opaque, shape)[0] if fit == "crop" else _fit_pad(opaque, shape, 0)[0]
    mask = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255)[None]
    if mask.max() == 0:
        raise UserError(
            f"{path}: --fit crop leaves nothing but transparent parts; use --fit pad, or cut it yourself"
        )
    return mask if mask.min() < 1 else None


def _fit_crop(image: Image.Image, shape: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """Scaled to cover `shape` (height, width), the centre cut out; and the (y, x) of the cut in the scaled image."""
    high, wide = shape
    scale = max(high / image.height, wide / image.width)
    width, height = max(wide, round(image.width * scale)), max(high, round(image.height * scale))
    left, top = (width - wide) // 2, (height - high) // 2
    # Only the cut is computed: an image of 1 x 100,000 pixels would grow out of memory otherwise.
    across, down = image.width / width, image.height / height  # source pixels per result pixel
    box = (left * across, top * down, (left + wide) * across, (top + high) * down)
    box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
    return image.resize((wide, high), Image.Resampling.LANCZOS, box=box), (top, left)


def _fit_pad(image: Image.Image, shape: tuple[int, int], ground: Any) -> tuple[Image.Image, tuple[int, int]]:
    """Scaled to fit into `shape`, centred on the colour `ground`; nothing is cut, so the crop offset is (0, 0)."""
    high, wide = shape
    scale = min(high / image.height, wide / image.width)
    width, height = (
        min(wide, max(1, round(image.width * scale))),
        min(high, max(1, round(image.height * scale))),
    )
    canvas = Image.new(image.mode, (wide, high), ground)
    whole = image.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(whole, ((wide - width) // 2, (high - height) // 2))
    return canvas, (0, 0)
