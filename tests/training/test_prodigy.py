"""Prodigy: a learning rate that is found while training, and found again where a run goes on."""

import sys

import pytest
from conftest import refused
from loops import loaded, same_files, stop_after

from b4m.training.loop import train


@pytest.fixture
def found(settings, tmp_path):
    return lambda name, **changes: settings(
        "content", tmp_path / name, prodigy=True, **{"lr": 1.0, "partner_lr": 1.0, "steps": 4, **changes}
    )


def test_both_factors_move_and_the_rate_grows_from_next_to_nothing(found):
    loop = loaded(found("run", steps=30))
    loop.book.start([], "none")
    (group,) = loop.optimizer.param_groups
    before = [parameter.detach().clone() for parameter in loop.learner.parameters]
    assert group["d"] == 1e-6
    for loop.step in range(30):
        loop.take_step()
    assert group["d"] > 1e-6
    assert all((old != new).any() for old, new in zip(before, loop.learner.parameters, strict=True))


def test_stopped_and_continued_is_the_run_that_was_not(found, monkeypatch, capsys):
    whole = train(found("whole"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_after(patch, 2)
        train(found("parts"))
    assert same_files(whole.path, train(found("parts")).path)
    assert "decoupled" not in capsys.readouterr().out


def test_two_rates_and_a_missing_package_are_one_line(found, monkeypatch, tmp_path):
    refused(lambda: found("run", partner_lr=0.5), "--prodigy finds one rate", "--partner-lr 0.5")
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    refused(lambda: train(found("run")), 'pip install "b4m[prodigy]"')
    assert not (tmp_path / "run").exists()
