"""What lies in a folder: images are used whatever they end on, and what is left out is named with the reason."""

import io

import pytest
from conftest import refused
from samples import one, stored, two_tone

from b4m.data import folder, formats
from b4m.data.findings import lines
from b4m.data.folder import look
from b4m.data.formats import HEAD, begins


@pytest.fixture
def no_heif(monkeypatch):
    """As where pillow-heif is not installed."""
    monkeypatch.setattr(formats, "_heif", lambda: False)


def left_out(path) -> dict[str, str]:
    """Name -> the reason."""
    return {finding.file.name: finding.text for finding in look(path).left_out}


def test_every_ending_of_a_format_that_is_read_is_an_image(tmp_path):
    kinds = {
        "a.jfif": "JPEG",
        "b.jpe": "JPEG",
        "c.AVIF": "AVIF",
        "d.tif": "TIFF",
        "e.TIFF": "TIFF",
        "f.bmp": "BMP",
    }
    kinds |= {
        "g.gif": "GIF",
        "h.JPG": "JPEG",
        "i.Png": "PNG",
        "j.webp": "WEBP",
        "k.dib": "BMP",
        "l.apng": "PNG",
    }
    for name, kind in kinds.items():
        two_tone().save(tmp_path / name, kind)
    found = look(tmp_path)
    assert [path.name for path in found.images] == [*kinds] and not found.left_out


def test_what_is_left_out_is_named_with_the_reason(tmp_path, no_heif):
    two_tone().save(tmp_path / "a.png")
    for name in ("10_snq car", "notes", "__MACOSX", ".ipynb_checkpoints", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "10_snq car/1.png",
        "10_snq car/2.jpg",
        ".ipynb_checkpoints/a.png",
        "deep/er/a.png",
        ".a.png",
    ):
        two_tone().save(tmp_path / name)
    (tmp_path / "notes/readme.md").write_text("x")
    (tmp_path / "photo.jpg_large").write_bytes(stored(two_tone(), "JPEG"))
    (tmp_path / "raw.dng").write_bytes(stored(two_tone(), "TIFF"))
    for name in ("b.heic", "film.mp4", "model.psd", "._a.png", "Thumbs.db", ".DS_Store", "__MACOSX/._a.png"):
        (tmp_path / name).write_bytes(b"BM, and no image")
    found = left_out(tmp_path)
    assert [path.name for path in look(tmp_path).images] == ["a.png"]
    assert sorted(found) == [
        ".a.png", "10_snq car", "b.heic", "deep", "film.mp4", "model.psd", "photo.jpg_large", "raw.dng"
    ]  # fmt: skip
    assert all(text.startswith("left out, ") for text in found.values())
    assert (
        "b4m[heic]" in found["b.heic"]
        and "hidden" in found[".a.png"]
        and "rename" in found["photo.jpg_large"]
    )
    assert found["10_snq car"].endswith("2 images") and found["deep"].endswith("1 image")
    assert found["film.mp4"] == found["raw.dng"] == folder.UNKNOWN


def test_files_left_out_for_one_reason_share_a_line(tmp_path, no_heif):
    two_tone().save(tmp_path / "a.png")
    for number in range(5):
        (tmp_path / f"IMG_{number}.HEIC").write_bytes(b"x")
    (line,) = lines(look(tmp_path).left_out)
    first = ", ".join(f"{tmp_path.name}/IMG_{number}.HEIC" for number in range(3))
    assert line == f'left out, HEIC (pip install "b4m[heic]" reads it): {first} and 2 more'


def test_a_folder_of_folders_is_refused_with_the_ones_to_give(tmp_path):
    for name in ("10_snq car", "1_car"):
        (tmp_path / name).mkdir()
        two_tone().save(tmp_path / name / "1.png")
    refused(
        lambda: look(tmp_path), tmp_path, f"{tmp_path}/10_snq car (1 image)", f"{tmp_path}/1_car (1 image)"
    )


def test_without_the_library_for_heic_that_is_what_is_said(tmp_path, no_heif):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.heic").read_bytes())  # content decides
    for path in (tmp_path / "a.heic", tmp_path / "b.jpg"):
        refused(lambda path=path: one(path), path, "HEIC", "b4m[heic]")
    (tmp_path / "b.jpg").unlink()
    refused(lambda: look(tmp_path), "a.heic", "b4m[heic]")


def test_heic_is_read(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    buffer = io.BytesIO()
    two_tone(64, 64).save(buffer, "HEIF", quality=95)
    (tmp_path / "IMG_1.HEIC").write_bytes(buffer.getvalue())
    pixels = ((one(tmp_path).pixels[:, 8, [2, 13]] + 1) * 127.5).round()
    assert (pixels.T - pixels.new_tensor([(200, 30, 30), (20, 150, 40)])).abs().max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"])
def test_a_format_is_told_by_how_it_begins(kind):
    assert begins(stored(two_tone(), kind)[:HEAD]) == kind and begins(b"BMW and other cars"[:HEAD]) is None
