"""What an eye says beside the encoders: blind sheets hold what they should, and shares are counted right."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from seen import agree, choose, sheets

from b4m.core.errors import UserError

SHIPPED = Path(__file__).parents[2] / "examples" / "results" / "seen"


def shots(folder, row, content, style, count):
    made = []
    for number in range(count):
        file = folder / f"{row}-{content}-{style}-{number}.png"
        Image.new("RGB", (8, 8), "red").save(file)
        named = {"file": str(file), "row": row, "content_name": content, "style_name": style}
        made.append(
            {**named, "prompt_text": "p", "seed": str(number), "content_right": "1", "style_right": "0"}
        )
    return made


def test_all_of_the_first_row_and_one_of_each_other_in_another_order(tmp_path):
    pictures = [*shots(tmp_path, "ours", "cat", "oil", 6), *shots(tmp_path, "theirs", "cat", "oil", 6)]
    (some,) = choose(pictures, ["ours", "theirs"], 3)
    assert Counter(shot["row"] for shot in some) == {"ours": 6, "theirs": 1}
    assert [shot["row"] for shot in some].index("theirs") < 6 and some == choose(
        pictures, ["ours", "theirs"], 3
    )[0]
    with pytest.raises(UserError, match="row 'another': has no image of cat in oil"):
        choose(pictures, ["ours", "another"], 3)


def test_a_sheet_is_seen_and_compared(tmp_path):
    pictures = [*shots(tmp_path, "ours", "cat", "oil", 2), *shots(tmp_path, "theirs", "cat", "oil", 1)]
    with (tmp_path / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, pictures[0])
        writer.writeheader()
        writer.writerows(pictures)
    sheets(tmp_path, tmp_path / "seen", ["ours", "theirs"], 0)
    assert Image.open(tmp_path / "seen/oil.webp").size == (5 * 150, 150)
    (tmp_path / "seen/seen.csv").write_text("place,content,style\noil-0-0,1,1\noil-0-1,1,1\noil-0-2,0,1\n")
    found = agree(tmp_path / "seen")
    assert found["all"]["eye"]["both"]["mean"] == pytest.approx(2 / 3) and found["all"]["images"] == 3
    encoders = found["all"]["encoders"]
    assert (encoders["content"], encoders["style"], encoders["both"]["mean"]) == (1, 0, 0)
    assert found["all"]["agree"] == {"content": pytest.approx(2 / 3), "style": 0}
    (tmp_path / "seen/seen.csv").write_text("place,content,style\noil-0-0,1,1\n")
    with pytest.raises(UserError, match="oil-0-1: stands in only one"):
        agree(tmp_path / "seen")


def test_what_was_seen_of_the_shipped_sheets():
    found = agree(SHIPPED)
    ours = found["B4M, against the base"]
    assert (found["all"]["images"], ours["images"]) == (288, 144)
    assert (
        round(100 * ours["eye"]["both"]["mean"]) == 77 and round(100 * ours["encoders"]["both"]["mean"]) == 45
    )
