"""Which image files are read, by their names and by their first bytes."""

from collections.abc import Iterator
from functools import cache

from PIL import features

# All that Pillow may try, by its own name: what a format is called here, and the endings of its files.
# Pillow's other decoders are its weak ones.
FORMATS = {
    "JPEG": ("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    "PNG": ("PNG", (".png", ".apng")),
    "WEBP": ("WebP", (".webp",)),
    "AVIF": ("AVIF", (".avif",)),
    "TIFF": ("TIFF", (".tif", ".tiff")),
    "BMP": ("BMP", (".bmp", ".dib")),
    "GIF": ("GIF", (".gif",)),
    "HEIF": ("HEIC", (".heic", ".heif", ".hif")),
}
NAMES = "JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF or HEIC"
_BY_SUFFIX = {suffix: name for name, (_, suffixes) in FORMATS.items() for suffix in suffixes}
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF8": "GIF",
}
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of the second header; "BM" alone begins many a text
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"}  # of the boxed formats; the others' are HEIF's
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
HEAD = 32  # bytes that tell a format


def named(suffix: str) -> str | None:
    """Pillow's name for the format of files that end so."""
    return _BY_SUFFIX.get(suffix.lower())


def begins(head: bytes) -> str | None:
    """Pillow's name for the format that begins so."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12]) or ("HEIF" if head[8:12] in _HEIF_BRANDS else None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def lacking(name: str) -> str | None:
    """What has to be installed before the format can be read; None if it can be."""
    if name == "HEIF" and not _heif():
        return 'HEIC (pip install "b4m[heic]" reads it)'
    if name == "AVIF" and not features.check("avif"):
        return "AVIF (this build of Pillow reads none: pip install --upgrade Pillow)"
    return None


def readable() -> Iterator[str]:
    """Pillow's names for all formats that can be read here."""
    return (name for name in FORMATS if lacking(name) is None)


@cache
def _heif() -> bool:
    try:
        from pillow_heif import register_heif_opener  # pyrefly: ignore[missing-import]
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True
