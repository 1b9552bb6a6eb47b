"""Judges against a person: pictures in the order of the sheet, labels that are checked, shares that are right."""

import numpy as np
import pytest
from world.by_eye import compare, mixed, pictures_of, read_seen
from world.check_base import sheet


def test_pictures_come_back_from_a_sheet_in_their_order():
    pictures = [np.full((128, 128, 3), 10 * n, np.uint8) for n in range(6)]
    assert np.array_equal(pictures_of(sheet(pictures, 3)), np.stack(pictures))


def test_a_mixed_sheet_has_the_same_pictures_elsewhere():
    pictures = [np.full((128, 128, 3), 10 * n, np.uint8) for n in range(6)]
    whole = sheet(pictures, 3)
    found = pictures_of(mixed(whole))
    shades = found[:, 0, 0, 0].tolist()
    assert sorted(shades) == [0, 10, 20, 30, 40, 50] != shades
    assert np.array_equal(found, pictures_of(mixed(whole))) and mixed(whole).size == whole.size


def test_what_cannot_be_told_is_asked_of_nobody(tmp_path):
    (tmp_path / "seen.csv").write_text("class,ground\nbear,sky\ncar,\n")
    seen = read_seen(tmp_path / "seen.csv", 2)
    assert seen == [{"class": "bear", "ground": "sky"}, {"class": "car"}]
    found = {
        "resnet": {"class": ["bear", "bear"], "ground": ["sky", "snow"]},
        "convnext": {"class": ["bear", "car"], "ground": ["snow", "snow"]},
    }
    assert compare(found, seen) == {
        "resnet and eye": {"class": 0.5, "ground": 1.0},
        "convnext and eye": {"class": 1.0, "ground": 0.0},
        "resnet and convnext": {"class": 0.5, "ground": 0.5},
    }


@pytest.mark.parametrize(
    ("text", "count", "said"),
    [
        ("class\nbear\n", 2, "1 lines for 2 pictures"),
        ("klass\nbear\n", 1, "'klass' is no aspect"),
        ("class,style\nbear,sketchy\n", 1, "line 2: 'sketchy' is no style"),
    ],
)
def test_labels_that_cannot_be_are_refused_in_a_line(tmp_path, text, count, said):
    (tmp_path / "seen.csv").write_text(text)
    with pytest.raises(ValueError, match=said) as refused:
        read_seen(tmp_path / "seen.csv", count)
    assert "\n" not in str(refused.value)
