"""Bytes to pixels: every format and mode as a viewer shows it, broken metadata left out, damage refused."""

import io
import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image, PngImagePlugin
from samples import (
    GREEN,
    RED,
    chunk,
    jpeg_with,
    noise,
    one,
    png16,
    png_with,
    profile,
    refusal,
    rgb,
    stored,
    two_tone,
)

from b4m.data.decode import FIRST_OF_MANY, decode
from b4m.data.images import load_folder

WORKFLOW = b'{"nodes": [' + b'{"id": 1}, ' * 120_000 + b"{}]}"  # what ComfyUI writes, 1.3 MB


def read(tmp_path, data: bytes, size: int = 16) -> np.ndarray:
    (tmp_path / "a.png").write_bytes(data)
    return rgb(one(tmp_path / "a.png", size))


def same(pixels: np.ndarray, image: Image.Image, limit: int = 0) -> bool:
    return np.abs(pixels - np.asarray(image.convert("RGB")).astype(int)).max() <= limit


# formats and modes


@pytest.mark.parametrize("kind", ["AVIF", "TIFF", "BMP", "GIF"])
def test_the_formats_of_scanners_and_web_pages_are_read_whatever_their_name(tmp_path, kind):
    data = stored(two_tone(16, 16), kind, **({"quality": 100} if kind == "AVIF" else {}))
    pixels = read(tmp_path, data)[:, [2, 13]]
    assert np.abs(pixels - [RED, GREEN]).max() <= 6


TIFFS = [
    (mode, compression)
    for mode in ("RGB", "RGBA", "L", "CMYK", "P", "1", "LAB", "I;16", "YCbCr")
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    if compression != "jpeg" or mode in ("RGB", "L", "CMYK", "YCbCr")
]


@pytest.mark.parametrize(("mode", "compression"), TIFFS)
def test_tiffs_of_every_mode_and_compression(tmp_path, mode, compression):
    if (mode, compression) == ("YCbCr", None) and PIL.__version__ < "13":
        pytest.skip("before Pillow 13 these are refused in one line: it reads no subsampled ones")
    image = two_tone(16, 16)
    if mode == "LAB":
        image = Image.merge("LAB", [Image.new("L", (16, 16), level) for level in (200, 128, 128)])
    elif mode == "I;16":
        image = Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16))
    else:
        image = image.convert(mode)
    wanted = {"LAB": (194,) * 3, "I;16": (156,) * 3}.get(mode) or image.convert("RGB").getpixel((2, 8))
    pixels = read(tmp_path, stored(image, "TIFF", compression=compression))
    assert np.abs(pixels[8, 2] - wanted).max() <= (12 if compression == "jpeg" else 3)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF", "AVIF", "TIFF"])
def test_of_several_frames_or_pages_the_first_is_used_and_said_to_be(tmp_path, kind):
    first = Image.new("RGB", (16, 16), RED)
    data = stored(first, kind, save_all=True, append_images=[Image.new("RGB", (16, 16), GREEN)])
    assert same(read(tmp_path, data), first, 8)
    assert decode(tmp_path / "a.png", data).notes == (FIRST_OF_MANY,)
    assert decode(tmp_path / "a.png", stored(first, kind)).notes == ()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_whose_white_nobody_knows_are_refused(tmp_path, mode):
    levels = np.array([[0, 1], [2**20, 2]], dtype=np.float32 if mode == "F" else np.int32)
    (tmp_path / "a.tif").write_bytes(stored(Image.fromarray(levels), "TIFF"))
    refusal(tmp_path, tmp_path / "a.tif", "32 bits")


def test_an_image_of_nothing_but_transparency_is_refused(tmp_path):
    Image.new("RGBA", (8, 8), (*RED, 0)).save(tmp_path / "a.png")
    refusal(tmp_path, tmp_path / "a.png", "transparent")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "AVIF", "WEBP"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_of_every_format_lies_over_white(tmp_path, mode, kind):
    image = Image.new("RGBA", (16, 16), (*RED, 255))
    image.paste((*RED, 0), (8, 0, 16, 16))
    pixels = read(tmp_path, stored(image.convert(mode), kind, quality=100))
    assert (pixels[:, 8:] == 255).all() and (pixels[:, :8] < 255).any()


def test_the_colour_that_stands_for_transparency_in_sixteen_bits(tmp_path):
    levels = np.full((16, 16), 40_000, dtype=np.uint16)
    levels[:8] = 1234
    for name, key, image in (
        ("gray", struct.pack(">H", 1234), levels),
        ("rgb", struct.pack(">HHH", 1234, 1234, 1234), np.stack([levels] * 3, -1)),
    ):
        path = tmp_path / f"{name}.png"
        png16(path, image, 0 if name == "gray" else 2)
        data = path.read_bytes()
        path.write_bytes(data[:33] + chunk(b"tRNS", key) + data[33:])
        pixels = rgb(one(path))
        assert (pixels[:8] == 255).all() and np.abs(pixels[8:] - 156).max() <= 1, name


# metadata is no part of the image


def text(kind: bytes) -> bytes:
    head = {b"zTXt": b"workflow\0\0", b"tEXt": b"workflow\0", b"iTXt": b"workflow\0\1\0\0\0"}[kind]
    return chunk(kind, head + (WORKFLOW if kind == b"tEXt" else zlib.compress(WORKFLOW)))


BROKEN_PNG = {
    "large zTXt": text(b"zTXt"),
    "large tEXt": text(b"tEXt"),
    "large iTXt": text(b"iTXt"),
    "wrong sum": chunk(b"tEXt", b"a\0bc")[:-4] + bytes(4),
    "wrong sum of an unknown chunk": chunk(b"prVt", b"a\0bc")[:-4] + bytes(4),
    "broken zTXt": chunk(b"zTXt", b"a\0\0" + b"nonsense"),
    "profile of zeros": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2_000_000))),
    "broken profile": chunk(b"iCCP", b"p\0\0" + b"nonsense"),
    "profile of no method": chunk(b"iCCP", b"p\0\7"),
    "eXIf without a header": chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"),
    "eXIf of nonsense": chunk(b"eXIf", b"MM\0*" + b"\xff" * 40),
    "eXIf with a wrong sum": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")[:-4] + bytes(4),
    "pHYs of nonsense": chunk(b"pHYs", b"\1"),
    "gAMA of nonsense": chunk(b"gAMA", b""),
    "cHRM of nonsense": chunk(b"cHRM", b"\1\2\3"),
    "tIME of nonsense": chunk(b"tIME", b""),
    "XMP of nonsense": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe<<"),
}


@pytest.mark.parametrize("case", BROKEN_PNG)
def test_a_png_with_broken_metadata_is_whole(tmp_path, case):
    image = noise(16, 16)
    assert same(read(tmp_path, png_with(BROKEN_PNG[case], image=image)), image)


BROKEN_JPEG = {
    "EXIF header twice": [(0xE1, b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")],
    "EXIF of nonsense": [(0xE1, b"Exif\0\0II*\0" + b"\xff" * 60)],
    "EXIF cut off": [(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x10\0")],
    "views of nonsense": [(0xE2, b"MPF\0II*\0" + b"\xff" * 60)],
    "views cut off": [(0xE2, b"MPF\0II*\0\x08\0\0\0\x03\0\x00\xb0\x07\0\x04\0\0\x00")],
    "Photoshop of nonsense": [(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04" + b"\xff" * 20)],
    "profile in the wrong order": [(0xE2, b"ICC_PROFILE\0\7\3abc"), (0xE2, b"ICC_PROFILE\0\1\3abc")],
    "XMP of nonsense": [(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<<")],
    "comment of nonsense": [(0xFE, b"\xff\xd8\xff\xd9")],
    "Adobe cut off": [(0xEE, b"Adobe\0")],
    "JFIF cut off": [(0xE0, b"JFIF\0")],
}


@pytest.mark.parametrize("case", BROKEN_JPEG)
def test_a_jpeg_with_broken_metadata_is_whole(tmp_path, case):
    assert same(read(tmp_path, jpeg_with(*BROKEN_JPEG[case])), Image.open(io.BytesIO(jpeg_with())), 1)


def orientation(*entries: bytes, after: int = 0) -> bytes:
    """EXIF data of orientation 6 and more, and where it says the next directory lies."""
    ifd = [struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), *entries]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(ifd)) + b"".join(ifd) + struct.pack("<I", after)


@pytest.mark.parametrize(
    "exif",
    [
        orientation(struct.pack("<HHII", 0x9202, 10, 1, 38)) + struct.pack("<ii", -1, 0),
        orientation(after=0xFFFF),
        orientation(struct.pack("<HHII", 0x010E, 2, 500, 9000)),
        orientation(struct.pack("<HHII", 0x8769, 4, 1, 60000)),
    ],
    ids=[
        "a rational of -1/0",
        "next directory out of the file",
        "text out of the file",
        "EXIF out of the file",
    ],
)
def test_an_orientation_beside_broken_entries_counts(tmp_path, exif):
    jpeg = jpeg_with((0xE1, b"Exif\0\0" + exif))
    # Also where other metadata has to be taken away first.
    png = png_with(chunk(b"eXIf", exif), BROKEN_PNG["large zTXt"])
    for data in (jpeg, png):
        assert np.abs(read(tmp_path, data)[[2, 13], 8] - [RED, GREEN]).max() < 12


def test_a_profile_larger_than_pillow_allows_is_used(tmp_path):
    large = profile() + bytes(2**21)
    packed = chunk(b"iCCP", b"p\0\0" + zlib.compress(large))
    image = Image.new("RGB", (16, 16), (60, 150, 50))
    assert (read(tmp_path, png_with(packed, image=image)) == (0, 154, 16)).all()


def test_what_telephones_add_behind_a_jpeg_is_no_damage(tmp_path):
    data = jpeg_with()
    for more in (b"Image_UTC_Data1732500000000SEFHe\0\0\0\1\0\0\0SEFT" + bytes(500), b"\xff" * 9, bytes(1)):
        assert (read(tmp_path, data + more) == read(tmp_path, data)).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 0}])
@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff\xff"])
def test_a_jpeg_that_lacks_its_end_mark_alone_is_whole(tmp_path, options, end):
    data = stored(noise(40, 24), "JPEG", **options)
    pixels = read(tmp_path, data[:-2] + end, 24)
    assert (pixels == read(tmp_path, data, 24)).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_lacks_pixels_is_refused_however_few(tmp_path, options):
    data = stored(noise(40, 24), "JPEG", **options)
    for missing in (6, 10, 20, 50, 200, 400):
        for end in (b"", b"\xff\xd9"):
            (tmp_path / "a.jpg").write_bytes(data[: -2 - missing] + end)
            if not end:
                refusal(tmp_path, tmp_path / "a.jpg", "damaged")


def test_a_gif_whose_second_frame_is_cut_off_gives_its_first(tmp_path):
    first = Image.new("RGB", (16, 16), RED)
    data = stored(first, "GIF", save_all=True, append_images=[noise(16, 16)])
    assert same(read(tmp_path, data[:-40]), first)


def test_critical_damage_of_a_png_is_refused(tmp_path):
    data = png_with(image=two_tone(16, 16).quantize(2))
    place = data.index(b"PLTE")
    (tmp_path / "a.png").write_bytes(data[: place + 4] + b"\7" + data[place + 5 :])
    refusal(tmp_path, tmp_path / "a.png")


def test_a_rare_kind_of_a_known_format_is_named_as_such(tmp_path):
    data = bytearray(stored(two_tone(16, 16), "TIFF"))
    place = data.index(struct.pack("<HHI", 262, 3, 1))  # what its colours are
    data[place + 8 : place + 10] = struct.pack("<H", 999)
    (tmp_path / "a.tif").write_bytes(data)
    refusal(tmp_path, tmp_path / "a.tif", "TIFF", "rare kind")


def test_texts_of_ordinary_images_are_left_alone(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a photo")
    image = noise(16, 16)
    image.save(tmp_path / "a.png", pnginfo=info)
    (picture,) = load_folder(tmp_path, 16)
    assert same(rgb(picture), image)
