"""Small images, bytes of image files made by hand, and how they are read: what the tests of this room share."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from b4m.core.errors import UserError
from b4m.data.decode import decode
from b4m.data.images import load_folder

RED, GREEN, WHITE = (200, 30, 30), (20, 150, 40), (255, 255, 255)


def two_tone(width=24, height=16) -> Image.Image:
    """Left half red, right half green."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    return image


def noise(width, height, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def rgb(picture) -> np.ndarray:
    """(H, W, 3) as 8-bit integers."""
    return ((picture.pixels.permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(int)


def one(path, size=16, fit="crop"):
    (picture,) = load_folder(path, size, fit)
    return picture


def refusal(path, *words, size=16, fit="crop") -> str:
    """The message of the UserError that loading raises: one line that holds the words."""
    with pytest.raises(UserError) as caught:
        load_folder(path, size, fit)
    message = str(caught.value)
    assert message.isprintable() and "Traceback" not in message
    for word in words:
        assert str(word) in message, message
    return message


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with more chunks after its first one."""
    data = stored(image or two_tone(16, 16), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(*segments: tuple[int, bytes], image: Image.Image | None = None) -> bytes:
    """A JPEG with more segments (marker, contents) after its start."""
    data = stored(image or two_tone(16, 16), "JPEG", quality=95)
    more = (bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + b"".join(more) + data[2:]


def stored(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


D50 = (0.9642, 1.0, 0.8249)
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))


def profile(
    columns=P3,
    gamma: float = 2.2,
    space: bytes = b"RGB ",
    tables: dict[bytes, bytes] | None = None,
    curve: bytes = b"",
) -> bytes:
    """An ICC profile of a matrix (its columns adapted to D50) and one gamma, of gray with that gamma, or of tables."""

    def xyz(values) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(map(s15, values))

    curve = curve or b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": xyz(D50),
    }
    if tables:
        tags |= tables
    elif space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {
            name + kind: data
            for name, column in zip((b"r", b"g", b"b"), columns, strict=True)
            for kind, data in ((b"XYZ", xyz(column)), (b"TRC", curve))
        }
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s",
        start + len(body),
        bytes(4),
        0x02100000,
        b"prtr" if tables else b"mntr",
        space,
        b"Lab " if tables else b"XYZ ",
    )
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(s15, D50))
    return head.ljust(128, b"\0") + table + body


def decoded_notes(path) -> tuple[str, ...]:
    return decode(path, path.read_bytes()).notes


def png16(path, levels: np.ndarray, colour: int, icc: bytes | None = None) -> None:
    """A 16-bit PNG by hand: colour type 0 gray (H, W), 2 RGB (H, W, 3)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour, 0, 0, 0)
    more = chunk(b"iCCP", b"p\0\0" + zlib.compress(icc)) if icc else b""
    chunks = chunk(b"IHDR", header), more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def tiff16(path, levels: np.ndarray, colour: int, icc: bytes) -> None:
    """A 16-bit RGB TIFF (H, W, 3) by hand, which Pillow does not write."""
    height, width, _ = levels.shape
    data = levels.astype("<u2").tobytes() + struct.pack("<HHH", 16, 16, 16) + icc
    bits = 8 + levels.nbytes
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, colour)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, levels.nbytes)]
    tags += [(34675, 7, len(icc), bits + 6)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
