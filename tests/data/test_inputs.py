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
from b4m.maths.objective import sample_weights, terms
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


def partners_shown(found: Inputs, step: int, of_step: int) -> list[int]:
    """The partner images of one step, micro-batch after micro-batch."""
    micro_batches = [found.micro_batch(77, step * of_step + place, of_step) for place in range(of_step)]
    return [
        image
        for shown in micro_batches
        for sample, image in zip(shown.samples, shown.images, strict=True)
        if not found.is_target[sample]
    ]


def world(kind: str, partners: int, k: int | None, target_rows: int = 2) -> Inputs:
    """A target of three images and partners of one each; images 0, 1, ... are the contents'."""
    other = {"content": "style", "style": "content"}[kind]
    first = 3 if kind == "content" else 0
    lone = [Source(other, True, (first + i,), 1) for i in range(partners)]
    own = Source(kind, False, tuple(range(3)) if kind == "content" else (partners, partners + 1), target_rows)
    return Inputs((own, *lone) if kind == "content" else (*lone, own), (), (), partner_samples=k)


def test_without_sampling_every_micro_batch_shows_all(inputs):
    for found in (inputs("content", target_rows=3), inputs("style", target_rows=3)):
        for number in range(5):
            shown = found.micro_batch(77, number, 2)
            assert list(shown.images) == found.picked(77, number) and shown.partner_share == 1
            assert shown.samples == tuple(range(found.samples))


@pytest.mark.parametrize("kind", ["content", "style"])
@pytest.mark.parametrize(
    ("partners", "k", "of_step"), [(5, 1, 1), (5, 2, 4), (5, 5, 4), (6, 3, 2), (3, 1, 4)]
)
def test_a_step_draws_so_many_partners_and_none_twice_in_an_epoch(kind, partners, k, of_step):
    found = world(kind, partners, k)
    epoch = partners // k
    steps = [partners_shown(found, step, of_step) for step in range(4 * epoch)]
    assert all(len(drawn) == k for drawn in steps)
    for start in range(0, len(steps), epoch):
        drawn = sum(steps[start : start + epoch], [])
        assert len(set(drawn)) == len(drawn) == k * epoch
    assert steps == [partners_shown(found, step, of_step) for step in range(4 * epoch)]
    sizes = [len(found.micro_batch(77, number, of_step).samples) for number in range(4 * of_step)]
    assert max(sizes) == found.most_samples(of_step) and min(sizes) >= 2  # the target is always there


@pytest.mark.parametrize("kind", ["content", "style"])
@pytest.mark.parametrize(
    ("partners", "k", "of_step"), [(5, 1, 1), (5, 5, 4), (6, 3, 2), (6, 2, 3), (3, 1, 4)]
)
def test_the_mean_over_sampled_partners_is_the_mean_over_all(kind, partners, k, of_step):
    """Eq. 12 on made-up losses: exactly over an epoch where k divides the number of partners."""
    found = world(kind, partners, k)
    losses = torch.rand(20, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for number in range(partners // k * of_step):
        shown = found.micro_batch(77, number, of_step)
        is_target = found.is_target[list(shown.samples)]
        of_samples = losses[list(shown.images)]
        weights = sample_weights(is_target, shown.partner_share)
        total += float((weights * of_samples)[~is_target].sum())
        assert float(terms(of_samples, is_target, shown.partner_share)[1]) == pytest.approx(
            float((weights * of_samples)[~is_target].sum())
        )
        assert float(weights[is_target].sum()) == pytest.approx(1)
    all_of_them = [image for source in found.sources if source.partner for image in source.images]
    assert total / (partners // k * of_step) == pytest.approx(float(losses[all_of_them].mean()))


def test_where_partners_do_not_divide_none_is_favoured():
    drawn = sum((partners_shown(world("content", 5, 2), step, 1) for step in range(2000)), [])
    assert all(drawn.count(3 + i) == pytest.approx(800, abs=60) for i in range(5))


def test_more_partners_than_there_are_cannot_be_drawn(inputs):
    refused(lambda: inputs("content", partner_samples=3), "--partner-samples 3: there are 2 partners")


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
