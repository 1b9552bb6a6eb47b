"""Images of several shapes in one micro-batch: a pass for each shape, the same gradients, the same file twice."""

from dataclasses import replace

import pytest
import torch
from conftest import picture, refused
from loops import loaded, same_files, stop_after

from b4m.training.loop import train

SIDE = 64  # pixels of the square; the wide bucket beside it is 96 x 64


@pytest.fixture
def shaped(tmp_path) -> str:
    """A content of a wide, a tall and a square image."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, size in {"wide": (96, 64), "tall": (64, 96), "square": (64, 64)}.items():
        picture(len(name), size).save(folder / f"{name}.png")
    return str(folder)


@pytest.fixture
def bucketed(settings, shaped, tmp_path):
    def make(name: str, **changes):
        given = {"content_dir": shaped, "resolution": SIDE, "target_rows": 3, "buckets": True}
        return settings("content", tmp_path / name, **{**given, **changes})

    return make


def in_double(loop):
    """So that the order of sums does not matter."""
    loop.learner.backbone.denoiser.double()
    by_prompt = {name: rows.double() for name, rows in loop.cache.by_prompt.items()}
    loop.cache = replace(loop.cache, by_prompt=by_prompt)
    return loop


def test_each_pass_has_one_shape_and_all_together_are_the_separate_samples(bucketed):
    shapes = []
    gradients, losses = [], []
    for name, at_once in (("by-shape", None), ("one-by-one", 1)):
        loop = in_double(loaded(bucketed(name, rows_per_pass=at_once)))
        loss = loop.learner.loss
        if at_once is None:
            loop.learner.loss = lambda batch, loss=loss: (
                shapes.append(tuple(batch.latents.shape)),
                loss(batch),
            )[1]
        loop.micro_step(0)
        gradients.append([parameter.grad for parameter in loop.learner.named.values()])
        losses.append(loop.passes[0][1])
    assert len(shapes) == len({shape[1:] for shape in shapes}) == 3 and sum(shape[0] for shape in shapes) == 5
    torch.testing.assert_close(losses[0], losses[1])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


def test_losses_are_told_in_the_order_of_the_samples(bucketed):
    """A sample that is not finite is named rightly, and Eq. 12's terms take the right ones."""
    loop = loaded(bucketed("run"))
    loss = loop.learner.loss
    loop.learner.loss = lambda batch: (loss(batch)[0], torch.tensor(batch.places, dtype=torch.float32))
    loop.micro_step(0)
    assert loop.passes[0][1].tolist() == [0, 1, 2, 3, 4]


def test_the_model_is_told_the_shape_that_it_is_shown(bucketed):
    loop = loaded(bucketed("run"))
    for image, time_ids in zip(loop.inputs.images, loop.cache.by_image["time_ids"].tolist(), strict=True):
        assert tuple(time_ids[-2:]) == tuple(image.pixels.shape[1:])
    assert {image.path.stem: image.pixels.shape[1:] for image in loop.inputs.images[:3]} == {
        "square": (64, 64),
        "tall": (96, 64),
        "wide": (64, 96),
    }


def test_stopped_and_continued_it_ends_in_the_same_bits(bucketed, monkeypatch):
    whole = train(bucketed("whole"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_after(patch, 2)
        train(bucketed("parts"))
    assert same_files(whole.path, train(bucketed("parts")).path)


def test_square_images_have_the_same_bits_with_buckets_and_without(settings, tmp_path):
    (tmp_path / "in").mkdir()
    picture(1, (SIDE, SIDE)).save(tmp_path / "in/a.png")
    partner = str(tmp_path / "in/a.png")
    given = {"content_dir": str(tmp_path / "in"), "partner_dirs": (partner,), "resolution": SIDE, "steps": 1}
    one, two = (train(settings("content", tmp_path / str(b), buckets=b, **given)).path for b in (True, False))
    assert same_files(one, two)


def test_a_side_that_the_model_cannot_take_is_refused(bucketed, monkeypatch):
    monkeypatch.setattr("b4m.data.buckets.UNIT", 30)
    from b4m.data.buckets import shapes

    shapes.cache_clear()
    refused(lambda: train(bucketed("run")), "--buckets", "needs a multiple of")
    shapes.cache_clear()
