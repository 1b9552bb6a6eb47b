"""The references: where they lie, what they say, and that no set shows another's members."""

import sys

import numpy as np
import pytest
from PIL import Image
from world import make_references, members
from world.make_references import CONTENT_PARTNERS, MODELS, STYLE_PARTNERS, concepts, partners


def test_a_content_has_five_photos_that_nothing_calls_photos():
    captions = {place: caption for place, (_, caption) in concepts("tuning").items()}
    bears = [caption for place, caption in captions.items() if place.startswith("content/bear/")]
    assert len(bears) == len(set(bears)) == 5
    assert all(caption.startswith("a snq bear ") for caption in bears)
    assert not any("photo" in caption or "orange" in caption for caption in bears)


def test_a_style_is_called_by_trigger_and_class_word_and_what_it_shows_is_said():
    places = concepts("rare")
    assert {place.split("/")[1] for place in places if place.startswith("style/")} == {
        "chalk", "comic", "glass", "stitch", "thin_glass",
    }  # fmt: skip
    assert (
        places["style/thin_glass/1"][1] == "a green and red tree on grass from near in w@z thin glass style"
    )
    assert places["content/glass_vase/2"][1] == "a snq glass vase on grass from far"


@pytest.mark.parametrize("which", members.SETS)
def test_every_picture_shows_its_own_concept(which):
    for place, (scene, _) in concepts(which).items():
        kind, folder, _ = place.split("/")
        assert members.labels(scene)[kind] == members.instance(folder.replace("_", " "))
        assert scene.accessory is None and scene.second is None


def test_what_shows_a_style_and_what_is_learned_beside_it_is_of_no_set():
    shown = [content.kind for content, _ in (*MODELS, *CONTENT_PARTNERS)]
    shown += [content.kind for _, content, _ in STYLE_PARTNERS]
    assert len(set(shown)) == len(shown)
    assert not set(shown) & {content.kind for content in members.CONTENTS.values()}
    assert not {family for family, _, _ in STYLE_PARTNERS} & {s.family for s in members.STYLES.values()}
    assert not any("photo" in caption for _, caption in partners().values())


def test_the_same_bytes_every_time_and_nothing_is_written_over(tmp_path, monkeypatch, capsys):
    def make(*arguments):
        monkeypatch.setattr(sys, "argv", ["make_references.py", *arguments])
        make_references.main()

    for folder in ("one", "two"):
        make("--set", "rare", "--output", str(tmp_path / folder))
    one, two = (sorted((tmp_path / folder / "rare").rglob("*.png")) for folder in ("one", "two"))
    assert len(one) == 20 and [a.read_bytes() for a in one] == [b.read_bytes() for b in two]
    assert np.asarray(Image.open(one[0])).shape == (128, 128, 3)
    with pytest.raises(SystemExit) as stopped:
        make("--set", "rare", "--output", str(tmp_path / "one"))
    assert stopped.value.code == 2 and "is there already" in capsys.readouterr().err
