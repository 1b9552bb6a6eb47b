"""Colours: what a profile says is what a viewer shows, as littleCMS has it."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from samples import P3, chunk, decoded_notes, noise, one, png16, png_with, profile, rgb, stored, tiff16

from b4m.data.colour import to_srgb
from b4m.data.decode import NO_PROFILE, TOO_BRIGHT

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
PROFILES = {
    "Display P3": profile(P3, 2.2),
    "Adobe RGB": profile(ADOBE, 2.2),
    "ProPhoto": profile(PROPHOTO, 1.8),
    "linear": profile(P3, 1.0),
}


SRGB_CURVE = b"para" + struct.pack(
    ">4xH2x5i", 3, *(round(value * 65536) for value in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)


def by_engine(image: Image.Image, icc: bytes) -> np.ndarray:
    """(H, W, 3), what littleCMS says."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert made is not None
    return np.asarray(made).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("name", PROFILES)
def test_any_profile_in_any_format_is_converted(tmp_path, name, kind):
    options = (
        {"quality": 100, "lossless": True} if kind == "WEBP" else {"quality": 100} if kind != "TIFF" else {}
    )
    data = stored(noise(16, 16), kind, icc_profile=PROFILES[name], **options)
    (tmp_path / "a.png").write_bytes(data)
    wanted = by_engine(Image.open(io.BytesIO(data)), PROFILES[name])
    found = rgb(one(tmp_path))
    assert np.abs(found - wanted).max() <= 2
    assert np.abs(found - np.asarray(noise(16, 16)).astype(int)).max() > 20  # it did something


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "LA", "1"])
def test_images_of_every_mode_are_converted(tmp_path, mode):
    image = noise(16, 16).convert(mode)
    (tmp_path / "a.png").write_bytes(stored(image, "PNG", icc_profile=PROFILES["linear"]))
    wanted = by_engine(image.convert("RGB"), PROFILES["linear"])
    assert np.abs(rgb(one(tmp_path)) - wanted).max() <= 2


def test_transparency_stays_where_it_was(tmp_path):
    image = noise(16, 16).convert("RGBA")
    image.paste((60, 150, 50, 0), (0, 0, 8, 16))
    image.paste((60, 150, 50, 255), (8, 0, 16, 16))
    (tmp_path / "a.png").write_bytes(stored(image, "PNG", icc_profile=PROFILES["Display P3"]))
    pixels = rgb(one(tmp_path))
    assert (pixels[:, :8] == 255).all() and (pixels[:, 8:] == (0, 154, 16)).all()


def test_gray_of_eight_and_of_sixteen_bits(tmp_path):
    icc = profile(gamma=1.0, space=b"GRAY")
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    light = levels / 65535
    wanted = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    image = Image.fromarray((levels >> 8).astype(np.uint8))
    (tmp_path / "8.png").write_bytes(stored(image, "PNG", icc_profile=icc))
    (tmp_path / "16.tif").write_bytes(stored(Image.fromarray(levels), "TIFF", icc_profile=icc))
    assert np.abs(rgb(one(tmp_path / "8.png")) - by_engine(image, icc)).max() <= 2
    assert np.abs(rgb(one(tmp_path / "16.tif")) - wanted[..., None]).max() <= 2
    opaque = Image.merge("LA", [image, Image.new("L", image.size, 255)])
    (tmp_path / "la.png").write_bytes(stored(opaque, "PNG", icc_profile=icc))
    assert np.abs(rgb(one(tmp_path / "la.png")) - by_engine(image, icc)).max() <= 2


def press() -> bytes:
    """A CMYK profile of a press that does not exist: four inks to Lab by a table of two levels each."""
    ink = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lightness = 100 * (1 - ink[:, 3]) * (1 - 0.25 * ink[:, :3].sum(1))
    lab = np.stack([lightness, 60 * (ink[:, 1] - ink[:, 0]), 60 * (ink[:, 2] - ink[:, 1])], -1)
    table = (
        np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], -1)
        .round()
        .astype(">u2")
    )
    ramp = struct.pack(">HH", 0, 65535)
    unit = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + unit + struct.pack(">HH", 2, 2)
    return lut + ramp * 4 + table.tobytes() + ramp * 3


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_are_converted_by_their_own_profile(tmp_path, kind):
    icc = profile(space=b"CMYK", tables={b"A2B0": press()})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8), "CMYK")
    data = stored(image, kind, icc_profile=icc)
    (tmp_path / "a.tif").write_bytes(data)
    image = Image.open(io.BytesIO(data))
    found, wanted = rgb(one(tmp_path)), by_engine(image, icc)
    assert np.abs(found - wanted).max() <= 2
    assert np.abs(found - np.asarray(image.convert("RGB")).astype(int)).max() > 20


def exact(levels: np.ndarray, columns, gamma: float) -> np.ndarray:
    """(H, W, 3) levels of 16 bits as sRGB, in full precision."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).profile
    target = np.array([srgb.red_colorant[0], srgb.green_colorant[0], srgb.blue_colorant[0]]).T
    light = (levels / 65535) ** (round(gamma * 256) / 256) @ (np.linalg.inv(target) @ np.array(columns).T).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize(("columns", "gamma"), [(P3, 2.2), (ADOBE, 2.2), (PROPHOTO, 1.8), (P3, 1.0)])
def test_sixteen_bits_of_colour(tmp_path, columns, gamma, kind):
    shades = np.random.default_rng(0).random((16, 16, 3)) ** 3  # many of them dark
    levels, path = (shades * 65535).astype(np.uint16), tmp_path / f"a.{kind}"
    (png16 if kind == "png" else tiff16)(path, levels, 2, icc=profile(columns, gamma))
    assert np.abs(rgb(one(path)) - exact(levels, columns, gamma)).max() <= 1


def test_a_curve_that_is_a_table_or_a_formula(tmp_path):
    levels = np.random.default_rng(0).integers(0, 65536, (16, 16, 3)).astype(np.uint16)
    table = (np.linspace(0, 1, 4096) ** 2.2 * 65535).round().astype(">u2")
    for curve, gamma in (
        (b"curv" + bytes(4) + struct.pack(">I", 4096) + table.tobytes(), 2.2),
        (SRGB_CURVE, None),
    ):
        png16(tmp_path / "a.png", levels, 2, icc=profile(P3, curve=curve))
        eight = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
        wanted = exact(levels, P3, gamma) if gamma else by_engine(eight, profile(P3, curve=curve))
        assert np.median(np.abs(rgb(one(tmp_path)) - wanted)) <= 1


def test_an_image_in_srgb_keeps_every_value(tmp_path):
    image = noise(16, 16)
    (tmp_path / "a.png").write_bytes(stored(image, "PNG", icc_profile=SRGB))
    assert np.array_equal(rgb(one(tmp_path)), np.asarray(image))
    assert to_srgb(image, SRGB) is image


@pytest.mark.parametrize(
    ("icc", "mode"),
    [(b"x" * 200, "RGB"), (PROFILES["Display P3"][:300], "RGB"), (bytes(128), "L"), (PROFILES["Display P3"], "CMYK"),
     (profile(gamma=1.0, space=b"GRAY"), "RGB"), (b"\0" * 2**21, "RGB")],
)  # fmt: skip
def test_a_profile_that_cannot_be_used_is_said_and_left_out(tmp_path, icc, mode):
    image = noise(16, 16).convert(mode)
    path = tmp_path / "a.tif"
    path.write_bytes(stored(image, "TIFF", icc_profile=icc))
    assert np.array_equal(rgb(one(path)), np.asarray(image.convert("RGB")))
    assert decoded_notes(path) == (NO_PROFILE,)


@pytest.mark.parametrize("kind", ["PNG", "AVIF"])
@pytest.mark.parametrize(("primaries", "transfer"), [(12, 13), (9, 1), (12, 8), (1, 13), (12, 16)])
def test_colours_by_number(tmp_path, kind, primaries, transfer):
    image, path = noise(16, 16), tmp_path / "a.png"
    if kind == "PNG":
        path.write_bytes(png_with(chunk(b"cICP", bytes([primaries, transfer, 0, 1])), image=image))
    else:
        data = bytearray(stored(image, kind, quality=100))
        place = data.index(b"colrnclx") + 8
        data[place : place + 4] = struct.pack(">HH", primaries, transfer)
        path.write_bytes(data)
    plain = np.asarray(Image.open(path).convert("RGB"))
    found = rgb(one(path))
    assert (decoded_notes(path) == (TOO_BRIGHT,)) == (transfer == 16)
    if primaries == 1 or transfer == 16:
        assert np.array_equal(found, plain)
    elif primaries == 12:
        icc = profile(P3, 1.0) if transfer == 8 else profile(P3, curve=SRGB_CURVE)
        assert np.abs(found - by_engine(Image.fromarray(plain), icc)).max() <= 2
    else:
        assert np.abs(found - plain.astype(int)).max() > 20 and abs(found.mean() - plain.mean()) < 20


def test_a_profile_comes_before_numbers(tmp_path):
    image, path = noise(16, 16), tmp_path / "a.png"
    data = stored(image, "PNG", icc_profile=PROFILES["linear"])
    path.write_bytes(data[:33] + chunk(b"cICP", bytes([12, 13, 0, 1])) + data[33:])
    assert np.abs(rgb(one(path)) - by_engine(image, PROFILES["linear"])).max() <= 2
    path.write_bytes(data[:33] + chunk(b"cICP", bytes([12, 16, 0, 1])) + data[33:])
    assert decoded_notes(path) == ()
