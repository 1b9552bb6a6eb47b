"""Numbers that are not finite: named, left out on request, never saved."""

import json
from dataclasses import replace

import pytest
import torch
from loops import bear, loaded, poison

from b4m.core.errors import UserError
from b4m.training.loop import Loop, train
from b4m.training.state import load_state


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(settings, tmp_path, monkeypatch):
    config = settings("content", tmp_path, steps=5, checkpoint_every=2)
    average = Loop.average
    monkeypatch.setattr(
        Loop,
        "average",
        lambda self, values, stop: average(self, values * (float("nan") if self.step == 3 else 1), stop),
    )
    with pytest.raises(UserError, match="the loss is nan at step 4"):
        train(config)
    step, tensors, _ = load_state(tmp_path / "state")
    assert step == 2 and all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert not (tmp_path / "content.safetensors").exists()


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_what_is_not_finite_is_named_by_step_sample_and_image(
    settings, folders, tmp_path, monkeypatch, gradient, clip
):
    config = settings(
        "content",
        tmp_path / "out",
        content_dir=bear(folders, tmp_path),
        target_rows=2,
        checkpoint_every=1,
        max_grad_norm=clip,
    )
    poison(monkeypatch, 2, "bear.png", gradient)
    with pytest.raises(UserError) as caught:
        train(config)
    message, what = str(caught.value), "the gradient is not finite" if gradient else "the loss is nan"
    image = f"({tmp_path}/in/bear.png)"  # and no partner: they had no part in it
    assert f"{what} at step 2 in sample 1 {image}, sample 2 {image}: nothing is saved of it" in message
    step, tensors, _ = load_state(tmp_path / "out/state")
    assert step == 1 and all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert not (tmp_path / "out/content.safetensors").exists()


def test_steps_that_are_not_finite_may_be_left_out_up_to_a_count(settings, folders, tmp_path, monkeypatch):
    images = {"content_dir": bear(folders, tmp_path), "steps": 3, "checkpoint_every": 1}
    config = settings("content", tmp_path / "out", skip_not_finite=1, **images)
    poison(monkeypatch, 2, "bear.png", False)
    result = train(config)
    records = [json.loads(line) for line in (tmp_path / "out/log.jsonl").open()]
    assert "bear.png" in records[1]["skipped"] and "loss" not in records[1] and len(records) == 3
    assert result.losses == [records[0]["loss"], records[2]["loss"]]
    with monkeypatch.context() as patch:  # the next one is one too many, also for a run that goes on
        poison(patch, 4, "bear.png", True)
        with pytest.raises(UserError, match="the gradient is not finite at step 4"):
            train(replace(config, steps=5))
        assert len(train(replace(config, steps=5, skip_not_finite=2)).losses) == 3


def test_only_the_samples_of_the_step_itself_are_suspected(settings, tmp_path):
    config = settings("content", tmp_path, gradient_accumulation=2)
    loop = loaded(config)
    for loop.step in range(2):
        loop.take_step()
    picked = [loop.inputs.picked(config.seed, number) for number in (2, 3)]
    assert [list(shown.images) for shown, _ in loop.passes] == picked


def test_a_step_left_out_moves_nothing(settings, tmp_path):
    loop = loaded(settings("content", tmp_path, skip_not_finite=1))
    named = loop.learner.named
    before = [parameter.detach().clone() for parameter in named.values()]
    loop.micro_step(0)
    next(iter(named.values())).grad[0, 0] = float("inf")
    look = loop.advance(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert look.left_out and look.problem(of_gradient=True) == "the gradient is not finite"
    assert loop.book.skipped == 1
    assert all(torch.equal(old, new) for old, new in zip(before, named.values(), strict=True))


def test_weights_that_are_not_finite_are_never_saved(settings, tmp_path, monkeypatch):
    advance = Loop.advance

    def explode(loop, loss):
        moved = advance(loop, loss)
        list(loop.learner.named.values())[3].data[0, 0] = float("inf") if loop.step == 1 else 0.0
        return moved

    monkeypatch.setattr(Loop, "advance", explode)
    with pytest.raises(UserError, match="weights are not finite after step 2"):
        train(settings("content", tmp_path, checkpoint_every=1))
    step, tensors, _ = load_state(tmp_path / "state")
    assert step == 1 and all(torch.isfinite(tensor).all() for tensor in tensors.values())
