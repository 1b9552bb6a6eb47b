"""Ways of captioning a content, written out and compared image by image (`examples/captions.py`)."""

import csv
import subprocess
import sys
from pathlib import Path

import captions
import pytest
import yaml

SCRIPT = Path(captions.__file__)


def test_each_way_writes_its_own_captions_beside_the_same_images(tmp_path):
    captions.write(tmp_path)
    source = SCRIPT.parent / "references" / "content" / "car"
    shipped = (source / "1.txt").read_text().strip()
    said = {way: tmp_path / way / "car" for way in captions.WAYS}
    assert all((folder / "1.png").read_bytes() == (source / "1.png").read_bytes() for folder in said.values())
    assert (said["ground"] / "1.txt").read_text().strip() == shipped
    assert (said["photo"] / "1.txt").read_text().strip() == f"a photo of {shipped}"
    assert (said["one-photo"] / "0.txt").read_text().startswith("a photo of")
    assert (said["one-photo"] / "1.txt").read_text().strip() == shipped
    assert (said["words"] / "1.txt").read_text().strip() == "a snq car"
    assert not list(said["none"].glob("*.txt"))
    subjects = yaml.safe_load((tmp_path / "photo.yaml").read_text())
    assert subjects["contents"] == [f"{tmp_path}/photo/*"] and subjects["preset"] == "embedded"


def test_ways_are_compared_image_by_image_and_not_by_their_means():
    def shots(*values: float) -> list[dict]:
        names = {"row": "second stage", "content_name": "car", "prompt_text": "a prompt", "seed": "0"}
        return [{**names, "style_name": f"style {n}", "average": value} for n, value in enumerate(values)]

    found = captions.compared({"ground": shots(0.2, 0.8), "photo": shots(0.1, 0.7)})["second stage"]
    assert found["rows"]["photo"]["scores"]["average"]["mean"] == pytest.approx(0.4)
    # Images differ far more among themselves than the ways do: only a paired interval sees that.
    more = found["rows"]["photo"]["against_baseline"]["average"]
    assert (more["mean"], more["low"], more["high"]) == pytest.approx((-0.1, -0.1, -0.1))


def test_a_study_that_has_not_run_is_named(tmp_path):
    folder = tmp_path / "results" / "captions-ground"
    folder.mkdir(parents=True)
    with (folder / "pictures.csv").open("w", newline="") as file:
        csv.writer(file).writerow(["row"])
    command = [sys.executable, str(SCRIPT), "compare", str(tmp_path), str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "captions-photo is not there; run its study first" in ended.stderr
    assert not (tmp_path / "out").exists()
