"""Images: what must load, loads upright and right; what cannot is refused in a line that names the file."""

import hashlib
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from samples import GREEN, RED, WHITE, noise, one, png16, refusal, rgb, two_tone

from b4m.core.errors import UserError
from b4m.data import decode
from b4m.data.images import load_folder

# what loads


def test_a_picture_of_the_right_size_keeps_every_value(tmp_path):
    image = noise(16, 16)
    image.save(tmp_path / "a.png")
    picture = one(tmp_path)
    assert picture.pixels.shape == (3, 16, 16) and picture.pixels.dtype == torch.float32
    assert picture.pixels.is_contiguous()
    assert picture.pixels.min() >= -1 and picture.pixels.max() <= 1
    assert np.array_equal(rgb(picture), np.asarray(image))
    assert picture.path == tmp_path / "a.png"
    assert picture.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert (picture.original_size, picture.crop_top_left, picture.caption) == ((16, 16), (0, 0), None)


def test_black_and_white_are_exactly_minus_one_and_one(tmp_path):
    Image.new("RGB", (8, 8), (0, 255, 0)).save(tmp_path / "a.png")
    pixels = one(tmp_path).pixels
    assert torch.equal(pixels.amax((1, 2)), torch.tensor([-1.0, 1.0, -1.0]))


@pytest.mark.parametrize("size", [(40, 24), (24, 40), (33, 17), (17, 64), (16, 40), (7, 5)])
def test_crop_is_a_resize_of_the_short_side_and_a_centre_cut(tmp_path, size):
    image = noise(5, 5).resize(size, Image.Resampling.BICUBIC)  # smooth: its edge taps may differ
    image.save(tmp_path / "a.png")
    picture = one(tmp_path)
    scale = 16 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    left, top = (width - 16) // 2, (height - 16) // 2
    plain = image.resize((width, height), Image.Resampling.LANCZOS).crop((left, top, left + 16, top + 16))
    assert np.abs(rgb(picture) - np.asarray(plain).astype(int)).max() <= 3
    assert picture.original_size == (size[1], size[0]) and picture.crop_top_left == (top, left)


def test_pad_keeps_the_whole_picture_on_white(tmp_path):
    Image.new("RGB", (40, 20), RED).save(tmp_path / "a.png")
    picture = one(tmp_path, fit="pad")
    pixels = rgb(picture)
    assert (pixels[:4] == WHITE).all() and (pixels[12:] == WHITE).all() and (pixels[4:12] == RED).all()
    assert picture.original_size == (20, 40) and picture.crop_top_left == (0, 0)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (20_000, 1), (1, 20_000)])
def test_the_smallest_and_the_thinnest_pictures_load(tmp_path, shape, fit):
    Image.new("RGB", shape, RED).save(tmp_path / "a.png")
    picture = one(tmp_path, size=128, fit=fit)
    assert picture.pixels.shape == (3, 128, 128)
    assert (rgb(picture)[63, 63] == RED).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tif"])
def test_exif_orientation_gives_the_upright_picture(tmp_path, name, orientation):
    upright = two_tone(32, 16)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera held that way has done
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / name, exif=exif)
    picture = one(tmp_path, fit="pad")
    assert picture.original_size == (16, 32)
    pixels = rgb(picture)
    assert np.abs(pixels[8, 2] - RED).max() < 40 and np.abs(pixels[8, 13] - GREEN).max() < 40


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_lies_over_white(tmp_path, name):
    image = Image.new("RGBA", (16, 16), (*RED, 0))
    image.paste((*RED, 255), (8, 0, 16, 16))
    image.paste((0, 0, 0, 128), (8, 8, 16, 16))
    image.save(tmp_path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
    pixels = rgb(one(tmp_path))
    assert (pixels[:, :8] == WHITE).all() and (pixels[:8, 8:] == RED).all()
    assert np.abs(pixels[8:, 8:] - 127).max() <= 1


def test_palette_with_transparency_and_without(tmp_path):
    image = two_tone(16, 16).quantize(2)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png", transparency=image.getpixel((0, 0)))
    plain, holes = (rgb(picture) for picture in load_folder(tmp_path, 16))
    assert (plain[:, :8] == RED).all() and (plain[:, 8:] == GREEN).all()
    assert (holes[:, :8] == WHITE).all() and (holes[:, 8:] == GREEN).all()


def test_colour_key_transparency_of_plain_rgb(tmp_path):
    two_tone(16, 16).save(tmp_path / "a.png", transparency=RED)
    pixels = rgb(one(tmp_path))
    assert (pixels[:, :8] == WHITE).all() and (pixels[:, 8:] == GREEN).all()


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_becomes_three_equal_channels(tmp_path, mode):
    two_tone(16, 16).convert(mode).save(tmp_path / "a.png")
    pixels = rgb(one(tmp_path))
    assert (pixels == pixels[..., :1]).all() and pixels.std() > 0


def test_cmyk_jpeg_has_the_colours_of_its_rgb_twin(tmp_path):
    two_tone().save(tmp_path / "rgb.jpg", quality=95)
    two_tone().convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    cmyk, plain = load_folder(tmp_path, 16)
    difference = np.abs(rgb(cmyk) - rgb(plain))
    assert max(difference[:, :4].max(), difference[:, 12:].max()) < 20  # the edge has coarser chroma


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 256).reshape(16, 16).round().astype(np.uint16)
    png16(tmp_path / "gray.png", levels, 0)
    png16(tmp_path / "rgb.png", np.stack([levels] * 3, axis=-1), 2)
    for picture in load_folder(tmp_path, 16):
        assert np.abs(rgb(picture) - (levels / 257.0)[..., None]).max() <= 1, picture.path


def test_a_telephones_two_view_jpeg_loads_its_photograph(tmp_path):
    views = {"format": "MPO", "save_all": True, "append_images": [noise(16, 16)], "quality": 95}
    two_tone(16, 16).save(tmp_path / "a.jpg", **views)
    assert np.abs(rgb(one(tmp_path))[8, 2] - RED).max() < 20


def test_content_decides_not_the_suffix(tmp_path):
    two_tone().save(tmp_path / "a.png", format="JPEG")
    two_tone().save(tmp_path / "B.JPG")
    assert [picture.path.name for picture in load_folder(tmp_path, 16)] == ["B.JPG", "a.png"]


def test_order_is_by_name_and_the_rest_of_a_folder_is_left_alone(tmp_path):
    for name in ("b 2.png", "a.png", "ö é 猫.png", ".hidden.png"):
        two_tone().save(tmp_path / name)
    (tmp_path / "sub").mkdir()
    two_tone().save(tmp_path / "sub" / "c.png")
    (tmp_path / "dir.png").mkdir()
    for name in ("LICENSE", "LICENSES.txt", "notes.txt", "film.mp4", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\xff\xfe not a picture")
    names = [picture.path.name for picture in load_folder(tmp_path, 16)]
    assert names == ["a.png", "b 2.png", "ö é 猫.png"]


def test_one_file_and_links_load_too(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "links").mkdir()
    two_tone().save(tmp_path / "store" / "a b.png")
    (tmp_path / "links" / "l.png").symlink_to(tmp_path / "store" / "a b.png")
    (tmp_path / "folder link").symlink_to(tmp_path / "links")
    direct = one(tmp_path / "store" / "a b.png")
    linked = one(str(tmp_path / "folder link"))
    assert torch.equal(direct.pixels, linked.pixels) and direct.sha256 == linked.sha256


# what is refused


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tif", "a.bmp", "a.gif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path, name, share):
    noise(64, 64).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    refusal(tmp_path, tmp_path / name)


def test_random_damage_gives_a_picture_or_one_line(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "a.png", "a.webp"):
        exif = Image.Exif()
        exif[0x0112] = 6
        noise(12, 12).save(tmp_path / name, exif=exif)
        whole = (tmp_path / name).read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for place in generator.integers(0, min(len(data), 300), 3):
                data[place] = generator.integers(0, 256)
            (tmp_path / name).write_bytes(data)
            try:
                assert one(tmp_path / name).pixels.isfinite().all()
            except UserError as error:
                assert str(error).isprintable() and str(tmp_path / name) in str(error)


def test_zero_bytes_and_renamed_text_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    refusal(tmp_path, tmp_path / "a.png", "empty")
    (tmp_path / "a.png").write_text("this is text")
    refusal(tmp_path, tmp_path / "a.png", "not a JPEG, PNG, WebP")


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "PCX", "JPEG2000", "PDF", "EPS"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, kind):
    two_tone(16, 16).save(tmp_path / "a.png", format=kind)
    refusal(tmp_path, tmp_path / "a.png", "not a JPEG, PNG, WebP")


def test_the_pixel_cap_is_an_error_before_anything_is_decoded(tmp_path, monkeypatch):
    two_tone(24, 16).save(tmp_path / "a.png")
    monkeypatch.setattr(decode, "MAX_PIXELS", 24 * 16)
    one(tmp_path)
    monkeypatch.setattr(decode, "MAX_PIXELS", 24 * 16 - 1)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-30])  # were it decoded, the error would be another
    refusal(tmp_path, tmp_path / "a.png", "24 x 16")


def test_a_decompression_bomb_is_refused(tmp_path):
    two_tone().save(tmp_path / "a.png")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    refusal(tmp_path, tmp_path / "a.png", "million pixels")


def test_missing_and_empty_folders_are_refused(tmp_path):
    refusal(tmp_path / "nowhere", tmp_path / "nowhere", "No such file")
    refusal(tmp_path, tmp_path, "no image", ".webp")
    (tmp_path / "a.svg").write_bytes(b"x")
    refusal(tmp_path, "a.svg", ".jpg .png .webp")
    refusal(tmp_path / "a.svg", tmp_path / "a.svg", "JPEG, PNG, WebP")


def test_broken_links_and_pipes_are_refused(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    refusal(tmp_path, tmp_path / "a.png")
    refusal(tmp_path / "a.png", tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    refusal(tmp_path, tmp_path / "a.png", "regular file")


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    two_tone().save(tmp_path / "a.png")

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    refusal(tmp_path, tmp_path / "a.png", "Permission denied")


def test_a_newline_in_a_name_stays_out_of_the_message(tmp_path):
    (tmp_path / "a\nb.png").write_bytes(b"")
    assert "a\\nb.png" in refusal(tmp_path)


@pytest.mark.parametrize(("size", "fit"), [(0, "crop"), (-8, "pad"), (16, "stretch")])
def test_a_wrong_size_or_fit_is_refused(tmp_path, size, fit):
    two_tone().save(tmp_path / "a.png")
    refusal(tmp_path, size, fit, size=size, fit=fit)
