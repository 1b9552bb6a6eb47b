"""The bytes of an image file -> the upright image that a viewer shows, in 8-bit sRGB.

What cannot be read is refused with one line that names the file. Broken metadata around whole pixels is not damage:
it is left out.
"""

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from ..core.errors import UserError
from ..core.storage import reason
from .colour import DEEPEST, HDR, MAX_PROFILE, coded, deep_to_srgb, to_rgb, to_srgb
from .formats import FORMATS, HEAD, NAMES, begins, lacking, readable

MAX_PIXELS = 50_000_000  # about 48 megapixels is the largest picture of today's telephones
MAX_SIDE = 65_535  # of a JPEG; a longer side would take gigabytes to scale down
MAX_BYTES = 512 * 2**20  # of one file: more than MAX_PIXELS in 16 bits with transparency, uncompressed
WHITE = (255, 255, 255)
UPRIGHT = {  # from an EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_CHUNKS = set(b"IHDR PLTE tRNS IDAT IEND acTL fcTL fdAT".split())  # what pixels are made of
# Where a JPEG keeps metadata (APP0 to APP15, comments), and what is kept of it: its beginning, its least size.
JPEG_METADATA = dict.fromkeys((*range(0xE0, 0xF0), 0xFE), (b"", 2**16)) | {
    0xE0: (b"JFIF\0", 14),
    0xE1: (b"Exif\0", 14),
    0xE2: (b"ICC_PROFILE\0", 14),
    0xEE: (b"Adobe", 12),
}
CODES_WITHIN = 2**16  # bytes of a file's beginning, where its colours are said by number
SCAN = b"\xda"  # the pixels of a JPEG begin
_ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of bytes: the other one
SWAPPED = {
    f"{mode};16{one}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for one, other in _ORDERS.items()
}
MORE = (b"\x55" * 99, b"\xb6\xdb\x6d" * 33)  # of a JPEG's pixels, as good as any, and nothing like zeros
FIRST_OF_MANY = "several frames or pages, of which the first is used"
TOO_BRIGHT = "colours brighter than a screen's white (HDR), which come out wrong: save it without them"
NO_PROFILE = "its colour profile cannot be used: taken for sRGB"


@dataclass(frozen=True, eq=False)
class Decoded:
    """An upright image."""

    rgb: Image.Image  # transparent parts laid over white
    alpha: Image.Image | None  # "L"; None where everything is opaque
    notes: tuple[str, ...]  # what the user should know of it


def read_bytes(path: Path) -> bytes:
    """The file's bytes, read once so that hash and pixels belong to the same content. Raises UserError."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path}: a broken link or not a regular file; remove it or repair the link")
    check_bytes(path, MAX_BYTES)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check its permissions") from error
    if not data:
        raise UserError(f"{path}: the file is empty (0 bytes); copy it again or remove it")
    return data


def check_bytes(path: Path, limit: int) -> None:
    if (size := path.stat().st_size) > limit:
        raise UserError(f"{path}: {size:,} bytes, {limit:,} are allowed; is this the right file?")


def decode(path: Path, data: bytes) -> Decoded:
    """The image in the bytes of the file `path`, whatever its name says. Raises UserError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own pixel warning: the cap here is an error
        opened = _opened(path, data)
        try:
            return _decoded(path, opened)
        except UserError:
            raise
        except Exception as error:  # a decoder fed with damaged bytes may raise anything at all
            raise _damaged(path, error) from error


@dataclass(frozen=True)
class Opened:
    """An image as Pillow has it, its pixels decoded."""

    image: Image.Image
    stream: bytes  # what it was opened from
    profile: bytes | None  # ICC
    hdr: bool  # brighter than white


def _opened(path: Path, data: bytes) -> Opened:
    first: Exception | None = None
    for stream, profile in _attempts(data):
        try:
            image = _open(stream)
            _check_size(path, *image.size)
            image.load()
            profile = profile or image.info.get("icc_profile")
            primaries, transfer = (0, 0) if profile else _codes(stream)
            return Opened(image, stream, profile or coded(primaries, transfer), transfer in HDR)
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f"{path}: {_too_large()}") from error
        except Exception as error:  # a decoder fed with damaged bytes may raise anything at all
            first = first or error
    raise _refusal(path, data, first) from first


def _open(stream: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(stream), formats=[*readable()])


def _decoded(path: Path, opened: Opened) -> Decoded:
    image = opened.image
    alpha = _alpha(image)
    plain = _plain(path, image)
    rgb = _by_profile(plain, opened) if opened.profile else to_rgb(plain)
    notes = {
        FIRST_OF_MANY: _has_more(opened.stream),
        TOO_BRIGHT: opened.hdr,
        NO_PROFILE: rgb is None,
    }
    rgb = rgb or to_rgb(plain)
    if alpha and alpha.getextrema() == (0, 0):
        raise UserError(
            f"{path}: all of it is transparent, nothing is left to see; save it without transparency"
        )
    if alpha and alpha.getextrema() != (255, 255):
        rgb = _over_white(rgb, alpha)
    else:
        alpha = None
    turn = UPRIGHT.get(_orientation(image))
    if turn is not None:
        rgb, alpha = rgb.transpose(turn), alpha and alpha.transpose(turn)
    return Decoded(rgb, alpha, tuple(note for note, applies in notes.items() if applies))


def _attempts(data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """The file; then what is left of it without the metadata that may be at fault. With a profile found in that."""
    yield data, None
    kind = begins(data[:HEAD])
    if kind == "PNG":
        yield _bare_png(data)
    if kind == "JPEG":
        bare = _bare_jpeg(data)
        yield bare, None
        if whole := _ended(bare):
            yield whole, None


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise UserError(f"{path}: {width} x {height} pixels; {_too_large()}")


def _too_large() -> str:
    return f"{MAX_PIXELS / 1e6:g} million pixels and sides of {MAX_SIDE} are allowed; scale the image down"


def _refusal(path: Path, data: bytes, error: Exception | None) -> UserError:
    """Why nothing could be read."""
    kind = begins(data[:HEAD])
    if kind is None:
        return UserError(f"{path}: not a {NAMES} image, whatever its name says; convert it or remove it")
    if need := lacking(kind):
        return UserError(f"{path}: {need}; or save it as PNG or JPEG")
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(f"{path}: a {FORMATS[kind][0]} that is damaged or of a rare kind; save it as PNG")
    return _damaged(path, error)


def _damaged(path: Path, error: Exception | None) -> UserError:
    why = reason(error) if error else "unreadable"
    return UserError(f"{path}: damaged or cut off ({why}); copy it again, or open and re-save it")


def _has_more(stream: bytes) -> bool:
    """Frames or pages after the first. (A telephone's JPEG may carry a depth map or a second view: an MPO.)"""
    image = _open(stream)
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # damage behind the first frame
        return True


def _orientation(image: Image.Image) -> int:
    """From EXIF or XMP data, 1 where they are broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a stranger has written there
        return 1


def _alpha(image: Image.Image) -> Image.Image | None:
    """Its transparency ("L", 255: opaque), from a channel, a palette or a colour that stands for it."""
    if not image.has_transparency_data:
        return None
    key = image.info.get("transparency")
    if image.mode == "I;16":  # Pillow's conversions forget the colour of 16 bits
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, as the image is no longer
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return _with_alpha(image).getchannel("A")


def _with_alpha(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _plain(path: Path, image: Image.Image) -> Image.Image:
    """The image in a mode that has colours: gray of more than eight bits as "I;16", palettes and alpha as "RGBA".

    Raises UserError for levels of which nobody knows what is white.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() > DEEPEST:
            raise UserError(f"{path}: pixels of 32 bits, whose white is unknown; save it with 8 or 16 bits")
        return Image.fromarray(levels.astype(np.uint16))
    return _with_alpha(image) if image.has_transparency_data else image


def _by_profile(plain: Image.Image, opened: Opened) -> Image.Image | None:
    """In sRGB; None where the profile is of no use."""
    assert opened.profile is not None
    low = _low_bits(opened.stream)
    if low is None:
        return to_srgb(plain, opened.profile)
    levels = np.asarray(plain.convert("RGB"), dtype=np.uint16) * 256 + np.asarray(low)
    rounded = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    return deep_to_srgb(levels, opened.profile) or to_srgb(rounded, opened.profile)


def _low_bits(stream: bytes) -> Image.Image | None:
    """Of 16 bits of colour the lower eight: Pillow keeps the upper eight, and takes the others for these if it is told
    that the order of bytes is the other one. None where there are only eight."""
    image = _open(stream)
    swapped = []
    for tile in image.tile:
        way, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args or ("",)
        if way not in SWAPPED:
            return None
        swapped.append(tile._replace(args=(SWAPPED[way], *rest) if rest else SWAPPED[way]))
    image.tile = swapped
    return image.convert("RGB")


def _over_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    rgb = rgb.copy()
    rgb.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, (*WHITE, 255)), rgb).convert("RGB")


# Bytes


def _codes(data: bytes) -> tuple[int, int]:
    """Primaries and transfer by number, where the file has them; (2, 2): not said."""
    head = data[:CODES_WITHIN]
    for mark, shape in ((b"colrnclx", ">HH"), (b"\0\0\0\4cICP", ">BB")):
        place = head.find(mark) + len(mark)
        if place >= len(mark) and begins(head) in ("AVIF", "HEIF", "PNG"):
            return struct.unpack_from(shape, head.ljust(place + 4, b"\0"), place)
    return 2, 2


def _bare_png(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without texts, times and broken EXIF data; and its profile, which may be larger than Pillow allows."""
    kept, profile, at = [data[:8]], None, 8
    while (end := at + 12 + int.from_bytes(data[at : at + 4])) <= len(data):
        kind, body, check = data[at + 4 : at + 8], data[at + 8 : end - 4], data[end - 4 : end]
        if kind == b"iCCP":
            profile = _inflated(body)
        elif kind in PNG_CHUNKS or kind == b"eXIf" and zlib.crc32(kind + body) == int.from_bytes(check):
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, data[at:])), profile


def _inflated(body: bytes) -> bytes:
    """The profile of an iCCP chunk: a name, a zero, a method, then zlib's data; b"?" where it is broken."""
    packed = zlib.decompressobj()
    try:
        return packed.decompress(body.partition(b"\0")[2][1:], MAX_PROFILE) or b"?"
    except zlib.error:
        return b"?"


def _bare_jpeg(data: bytes) -> bytes:
    """A JPEG without comments and what programs and telephones add: all but JFIF, Adobe's, EXIF data and profile."""
    kept, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"", SCAN):
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # filling
            at += 1
            continue
        if end < at + 4 or end > len(data):
            break
        begins_so, least = JPEG_METADATA.get(marker, (b"", 0))
        if data[at + 4 : end].startswith(begins_so) and end - at - 4 >= least:
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, data[at:]))


def _ended(data: bytes) -> bytes | None:
    """A JPEG that lacks nothing but the two bytes at its end, with these; None if pixels are missing too.

    Told by what more data would change: nothing, where all pixels are there already.
    """
    data = data.rstrip(b"\xff")
    if data.endswith(b"\xd9"):
        return None
    decoded = []
    for more in (b"", *MORE):
        try:
            image = Image.open(io.BytesIO(data + more + b"\xff\xd9"), formats=["JPEG"])
            if image.width * image.height > MAX_PIXELS:
                return None
            decoded.append(image.tobytes())
        except Exception:  # a decoder fed with damaged bytes may raise anything at all
            return None
    return data + b"\xff\xd9" if len(set(decoded)) == 1 else None
