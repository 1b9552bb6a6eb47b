"""Images on their way in: what is wrong is said beside the one that it is wrong with."""

import io
from pathlib import Path

import pytest
from conftest import picture
from PIL import Image

from b4m.apps.studio import references


@pytest.fixture
def uploads(tmp_path):
    """Makes (file, name) of an upload."""
    (tmp_path / "up").mkdir()

    def make(name: str, data: bytes | Image.Image) -> tuple[Path, str]:
        path = tmp_path / "up" / str(len(list((tmp_path / "up").iterdir())))
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            data.save(path, "PNG")
        return path, name

    return make


def test_good_ones_are_kept_under_numbers_and_bad_ones_named(tmp_path, uploads):
    whole = uploads("../../etc/<b>.png", picture(1, (32, 16)))
    cut = whole[0].read_bytes()[:-40]
    found = references.add(
        tmp_path / "desk",
        [
            whole,
            uploads("cut.png", cut),
            uploads("text.png", b"no image"),
            uploads("anim.svg", b"<svg/>"),
            (whole[0], "again.png"),
        ],
        16,
    )
    assert [one.file for one in found] == ["0001.png", "", "", "", ""]
    assert found[0].note == "32 x 16, 50% cut off" and not found[0].problem
    wanted = ("damaged or cut off", "not a JPEG, PNG", "not a JPEG, PNG", "the same image as ../../etc")
    for one, words in zip(found[1:], wanted, strict=True):
        assert words in one.problem and str(tmp_path) not in one.problem
    assert sorted(path.name for path in (tmp_path / "desk").iterdir()) == ["0001.png", "names.json"]
    assert [one.name for one in references.listing(tmp_path / "desk")] == ["../../etc/<b>.png"]


def test_links_and_enormous_files_are_not_read(tmp_path, uploads, monkeypatch):
    file, _ = uploads("a.png", picture(1))
    (tmp_path / "link.png").symlink_to(file)
    monkeypatch.setattr(references, "MAX_FILE", 10)
    found = references.add(tmp_path / "desk", [(tmp_path / "link.png", "l.png"), (file, "a.png")], 16)
    assert "not a regular file" in found[0].problem and "10 are allowed" in found[1].problem


@pytest.mark.parametrize("text", ["{", "[]", '{"../x.png": {"name": "a"}, "0001.png": 5, "0002.png": {}}'])
def test_a_damaged_list_is_an_empty_one(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    (tmp_path / "0001.png").write_bytes(b"")
    assert references.listing(tmp_path) == []


def test_there_is_an_end_to_their_number(tmp_path, uploads, monkeypatch):
    monkeypatch.setattr(references, "MAX_IMAGES", 2)
    found = references.add(tmp_path / "d", [uploads(f"{n}.png", picture(n)) for n in range(4)], 16)
    assert [bool(one.problem) for one in found] == [False, False, True, True]


def test_captions_go_with_their_images_and_away_with_them(tmp_path, uploads):
    desk = tmp_path / "desk"
    references.add(desk, [uploads("a.png", picture(1)), uploads("a.txt", b"a snq\nbear")], 16)
    assert (desk / "0001.txt").read_text() == "a snq bear\n"
    references.remove(desk, "../up/0")
    references.remove(desk, "0001.png")
    assert references.listing(desk) == [] and not (desk / "0001.txt").exists()


def test_the_shown_image_is_the_one_that_a_training_sees(tmp_path, uploads):
    references.add(tmp_path / "desk", [uploads("a.png", picture(1, (64, 32)))], 16)
    shown = Image.open(io.BytesIO(references.as_trained(tmp_path / "desk/0001.png", 16)))
    assert shown.size == (16, 16)


def test_what_a_mask_leaves_out_is_shown_checkered(tmp_path, uploads):
    image = picture(1).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 8, 16))
    references.add(tmp_path / "desk", [uploads("a.png", image)], 16)
    white, masked = (
        Image.open(io.BytesIO(references.as_trained(tmp_path / "desk/0001.png", 16, alpha=alpha)))
        for alpha in ("white", "mask")
    )
    assert white.getpixel((2, 8)) == (255, 255, 255) and masked.getpixel((2, 8)) != masked.getpixel((3, 8))
    assert white.getpixel((12, 8)) == masked.getpixel((12, 8))
