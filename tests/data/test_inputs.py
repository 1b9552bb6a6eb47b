"""What a training sees: samples of every source, order of the images, captions, and what a run says of them."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SIZE, picture, refused

from b4m.data.inputs import Group, Inputs, Source, read_inputs
from b4m.data.summary import summarise
from b4m.methods.registry import method_of


@pytest.fixture
def inputs(settings, tmp_path):
    """Inputs of a job, as a function: inputs("content", target_rows=3)."""

    def read(stage: str, **changes) -> Inputs:
        config = settings(stage, tmp_path, **changes)
        return method_of(type(config)).task(config).inputs

    return read


def sources(found: Inputs) -> list[tuple[str, bool, int]]:
    return [(source.kind, source.partner, source.samples) for source in found.sources]


def test_content_samples_come_first_and_partners_are_one_sample_each(inputs, trained):
    files = {key: trained[key] for key in ("content_file", "style_file")}
    content, style = inputs("content", target_rows=3), inputs("style", target_rows=3)
    second, joint = inputs("second", target_rows=3, **files), inputs("joint", target_rows=3)
    assert sources(content) == [("content", False, 3), ("style", True, 1), ("style", True, 1)]
    assert sources(style) == [("content", True, 1), ("content", True, 1), ("style", False, 3)]
    assert sources(second) == sources(joint) == [("content", False, 3), ("style", False, 3)]
    assert (content.samples, style.samples, second.samples) == (5, 5, 6)
    assert (content.content_samples, style.content_samples, second.content_samples) == (3, 2, 3)
    assert content.is_target.tolist() == [True] * 3 + [False] * 2
    assert style.is_target.tolist() == [False] * 2 + [True] * 3
    assert second.is_target.tolist() == joint.is_target.tolist() == [True] * 3 + [False] * 3


def test_partners_keep_their_order_whatever_the_order_of_kinds(folders):
    target = Group("style", (folders["style"],), "s", samples=2)
    partners = [Group("content", (path,), path, partner=True) for path in reversed(folders["contents"])]
    found = read_inputs([target, *partners], SIZE, "crop")
    assert sources(found) == [("content", True, 1), ("content", True, 1), ("style", False, 2)]
    assert found.prompts == (*reversed(folders["contents"]), "s", "s")
    assert [source.images for source in found.sources] == [(0,), (1,), (2, 3)]


def test_a_source_may_have_several_paths(folders):
    paths = (*folders["styles"], str(Path(folders["style"], "0.png")))
    found = read_inputs([Group("style", paths, "s")], SIZE, "crop")
    assert [source.images for source in found.sources] == [(0, 1, 2, 3)]
    assert [image.path.parent.name for image in found.images] == ["chalk", "neon", "neon", "style"]


def test_samples_show_images_of_their_own_source(inputs):
    found = inputs("style")
    for step in range(20):
        picked = iter(found.picked(77, step))
        for source in found.sources:
            assert all(next(picked) in source.images for _ in range(source.samples))
        assert next(picked, None) is None


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_every_image_is_shown_once_before_any_again(samples):
    source = Source("content", False, (4, 5, 6, 7, 8), samples)
    shown = [source.pick((77, 0), position) for position in range(15)]
    assert all(sorted(shown[start : start + 5]) == [4, 5, 6, 7, 8] for start in (0, 5, 10))
    assert shown[:5] != shown[5:10] or shown[5:10] != shown[10:]  # a new order every time
    assert shown != [source.pick((78, 0), position) for position in range(15)]


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_micro_batches_take_the_images_of_a_source_in_turn(samples):
    source = Source("content", False, (0, 1, 2, 3, 4), samples)
    found = Inputs((source,), (), ())
    taken = [image for step in range(15) for image in found.picked(77, step)]
    assert taken == [source.pick((77, 0), position) for position in range(15 * samples)]


def test_the_order_is_a_function_of_seed_step_and_sample(inputs):
    one, two = inputs("content"), inputs("content")
    assert [one.picked(1, step) for step in range(9)] == [two.picked(1, step) for step in range(9)]
    torch.manual_seed(1)
    assert one.picked(1, 5) == two.picked(1, 5)
    assert [one.picked(1, step) for step in range(9)] != [one.picked(2, step) for step in range(9)]


def test_captions_win_over_prompts(inputs, folders, tmp_path):
    shutil.copytree(folders["content"], tmp_path / "content")
    (tmp_path / "content/1.txt").write_text("a snq bear on snow")
    picture(9).save(tmp_path / "neon.png")
    (tmp_path / "neon.txt").write_text("a star in neon style")
    picture(8).save(tmp_path / "paper-cut_02.png")
    changes = {
        "content_dir": str(tmp_path / "content"),
        "partner_dirs": (str(tmp_path / "neon.png"), str(tmp_path / "paper-cut_02.png")),
    }
    plain = inputs("content", **changes, content_class="bear")
    given = inputs("content", **changes, prompt="my bear", partner_prompts=("one", "two"))
    assert plain.prompts == (
        "a photo of snq bear",
        "a snq bear on snow",
        "a photo of snq bear",
        "a star in neon style",
        "a picture in paper cut style",
    )
    assert given.prompts == ("my bear", "a snq bear on snow", "my bear", "a star in neon style", "two")


def test_missing_images_are_refused(inputs, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(lambda: inputs("content", content_dir=str(tmp_path / "none")), tmp_path / "none")
    refused(lambda: inputs("content", partner_dirs=(str(tmp_path / "empty"),)), tmp_path / "empty")


def test_images_are_read_at_the_resolution_and_with_the_fit(inputs):
    assert {image.pixels.shape for image in inputs("content").images} == {(3, SIZE, SIZE)}
    cut, padded = (inputs("content", fit=fit).images[1] for fit in ("crop", "pad"))  # wider than high
    assert cut.crop_top_left == (0, 2) and padded.crop_top_left == (0, 0)
    assert not torch.equal(cut.pixels, padded.pixels)


def test_what_a_run_says_of_its_images(inputs, folders):
    found = inputs("content")
    files = sorted(Path(folders["content"]).iterdir())
    shown = summarise(found, None).entries
    assert json.loads(json.dumps(shown)) == shown and len(shown) == len(found.images) == 6
    assert [entry["shows"] for entry in shown] == ["content"] * 3 + ["partner style"] * 3
    assert [entry["file"] for entry in shown[:3]] == list(map(str, files))
    assert [entry["prompt"] for entry in shown] == list(found.prompts)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert [entry["sha256"] for entry in shown[:3]] == digests == found.facts()["pictures"][:3]


def test_facts_are_of_what_the_files_hold_and_not_of_their_names(inputs, folders, tmp_path):
    before = inputs("content").facts()
    shutil.copytree(folders["content"], tmp_path / "moved")
    moved = {"content_dir": str(tmp_path / "moved")}
    assert inputs("content", **moved).facts() == before
    assert inputs("content", **moved, content_class="bear").facts() != before  # another caption
    picture(99).save(tmp_path / "moved/1.png")
    assert inputs("content", **moved).facts() != before
