"""Stopped, crashed, prolonged, damaged: the run that goes on ends in the bits of the one that was not."""

import json
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from loops import files_of, loaded, same_files, stop_after

from b4m.config.fields import deciding
from b4m.config.stages import ContentConfig
from b4m.core.errors import UserError
from b4m.files.concept import load_concept
from b4m.methods import directions
from b4m.training import start as start_module
from b4m.training.logbook import Logbook
from b4m.training.loop import Loop, train
from b4m.training.resume import check_same, settings_of
from b4m.training.state import load_state, save_state


@pytest.mark.parametrize(
    ("stage", "stops", "changes"),
    [
        ("content", [2], {"lr_schedule": "cosine", "gradient_accumulation": 2}),
        ("content", [1, 3], {}),
        ("content", [2], {"inputs": "cosine"}),
        ("content", [1, 2], {"partner_samples": 1, "gradient_accumulation": 2}),
        ("style", [3], {"gradient_accumulation": 2, "target_rows": 2}),
        ("second", [1, 3], {}),
        ("second", [2], {"optimizer": "riemannian-sgd", "lr_schedule": "linear"}),
        ("second", [1, 2], {"optimizer": "adamw", "lr_schedule": "cosine"}),
        ("joint", [2], {"routing": False}),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_stopped_and_continued_is_the_run_that_was_not(
    stage, stops, changes, settings, trained, tmp_path, monkeypatch
):
    files = files_of(trained, stage)
    whole = train(settings(stage, tmp_path / "whole", steps=4, **files, **changes))
    config = settings(stage, tmp_path / "parts", steps=4, **files, **changes)
    for stop in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, stop)
            with pytest.raises(SystemExit) as stopped:
                train(config)
        assert stopped.value.code == 128 + signal.SIGTERM
        assert load_state(tmp_path / "parts/state")[0] == stop
        assert not (tmp_path / "parts" / whole.path.name).exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    continued = train(config)
    assert same_files(whole.path, continued.path) and whole.losses == continued.losses
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 4


def test_a_signal_in_the_last_step_ends_the_process_when_the_result_is_written(
    settings, tmp_path, monkeypatch
):
    whole = train(settings("content", tmp_path / "whole", steps=2))
    config = settings("content", tmp_path / "run", steps=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(SystemExit) as stopped:
            train(config)
    assert stopped.value.code == 128 + signal.SIGTERM, "a study would go on with its next job"
    assert same_files(whole.path, tmp_path / "run" / whole.path.name)
    assert train(config).losses == whole.losses


def test_what_a_content_reads_is_kept_by_the_states(settings, tmp_path, monkeypatch):
    """Measured again, on another machine, its directions may be others, and B would belong to none of them."""
    whole = train(settings("content", tmp_path / "whole", steps=2))
    config = settings("content", tmp_path / "run", steps=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(SystemExit):
            train(config)
    monkeypatch.setattr(directions, "prompts", lambda: ["a lamp"])
    assert same_files(train(config).path, whole.path)
    assert not same_files(train(settings("content", tmp_path / "other", steps=2)).path, whole.path)


def test_contents_of_one_base_read_the_same(settings, tmp_path, folders):
    one, other = (
        load_concept(train(settings("content", tmp_path / name, steps=1, seed=seed, content_dir=folder)).path)
        for name, seed, folder in (("a", 1, folders["content"]), ("b", 2, folders["style"]))
    )
    assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
    assert any(not torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_a_run_may_be_prolonged_also_when_it_was_finished(settings, tmp_path, capsys):
    whole = train(settings("content", tmp_path / "whole", steps=4, lr_schedule="constant"))
    short = train(settings("content", tmp_path / "run", steps=2, lr_schedule="constant"))
    prolonged = train(settings("content", tmp_path / "run", steps=4, lr_schedule="constant"))
    assert same_files(whole.path, prolonged.path) and whole.losses == prolonged.losses
    assert short.losses == prolonged.losses[:2] and "learning rates" not in capsys.readouterr().out
    with pytest.raises(UserError, match="--steps 3, and 4 are taken already"):
        train(settings("content", tmp_path / "run", steps=3, lr_schedule="constant"))


def test_prolonged_with_a_falling_rate_the_rates_follow_the_new_length(settings, tmp_path, capsys):
    train(settings("content", tmp_path, steps=2, lr_schedule="cosine"))
    longer = settings("content", tmp_path, steps=4, lr_schedule="cosine")
    # Halfway down, not at its end.
    assert loaded(longer).schedule.get_last_lr()[0] == pytest.approx(longer.lr / 2)
    assert "--steps 4, before 2: the learning rates follow the new length" in capsys.readouterr().out


def test_the_result_of_a_shorter_run_is_not_taken_for_that_of_the_longer_one(settings, tmp_path, monkeypatch):
    """Prolonged, and killed between the last state and the result."""
    whole = train(settings("content", tmp_path / "whole", steps=2, lr_schedule="constant"))
    train(settings("content", tmp_path / "run", steps=1, lr_schedule="constant"))
    longer = settings("content", tmp_path / "run", steps=2, lr_schedule="constant")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Loop, "finish", lambda self: 1 / 0)
        train(longer)
    assert load_state(tmp_path / "run/state")[0] == 2
    assert same_files(whole.path, train(longer).path)


def test_a_damaged_result_is_made_again_from_the_last_state(settings, tmp_path):
    result = train(settings("content", tmp_path))
    data = result.path.read_bytes()
    result.path.write_bytes(data[:-1])
    assert train(settings("content", tmp_path)).path.read_bytes() == data


def test_a_damaged_newest_state_is_named_and_the_one_before_it_used(settings, tmp_path, capsys):
    whole = train(settings("content", tmp_path / "whole", steps=3, lr_schedule="constant"))
    train(settings("content", tmp_path / "run", steps=2, lr_schedule="constant", checkpoint_every=1))
    path = tmp_path / "run/state/step-000002/tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    continued = train(settings("content", tmp_path / "run", steps=3, lr_schedule="constant"))
    assert same_files(whole.path, continued.path) and whole.losses == continued.losses
    line = "step-000002: damaged training state (tensors.safetensors is not what was written)"
    assert line in capsys.readouterr().out


def test_a_crash_goes_back_to_the_last_state(settings, tmp_path, monkeypatch):
    whole = train(settings("style", tmp_path / "whole", steps=4))
    config = settings("style", tmp_path / "parts", steps=4, checkpoint_every=2)
    add = Logbook.add
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Logbook, "add", lambda self, record: (add(self, record), record["step"] == 3 and 1 / 0))
        train(config)
    assert len((tmp_path / "parts/log.jsonl").read_text().splitlines()) == 3  # step 3 will be taken again
    continued = train(config)
    assert same_files(whole.path, continued.path)
    log = (tmp_path / "parts/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4]


def test_a_finished_run_is_left_alone(settings, tmp_path, capsys, monkeypatch):
    config = settings("content", tmp_path / "run")
    first = train(config)
    stamp = first.path.stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr(start_module, "open_backbone", None)  # not even the base model is loaded
    again = train(config)
    assert "finished before" in capsys.readouterr().out
    assert again.losses == first.losses and again.path == first.path
    assert first.path.stat().st_mtime_ns == stamp


@pytest.fixture(scope="module")
def started(settings, tmp_path_factory) -> Path:
    """One folder with a finished run in it, for all that is asked of one."""
    folder = tmp_path_factory.mktemp("started")
    train(settings("content", folder))
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank": 8}, "rank 4, now it is 8"),
        ({"lr": 0.5}, "lr"),
        ({"steps": 2}, "--steps 2, and 3 are taken already"),
        ({"seed": 1}, "seed"),
        ({"prompt": "x"}, "prompt"),
        ({"target_rows": 1}, "target-rows"),
        ({"content_dir": "styles"}, "pictures"),
        ({"weight_decay": 0.5}, "weight-decay"),
        ({"snr_gamma": 5.0}, "snr-gamma"),
        ({"fit": "pad"}, "fit"),
    ],
)
def test_other_settings_refuse_to_continue(change, named, settings, folders, started):
    if "content_dir" in change:
        change = {"content_dir": folders["styles"][0]}
    with pytest.raises(UserError, match=named):
        train(settings("content", started, **change))


def test_settings_that_do_not_matter_may_change(settings, started):
    moved = {
        "gradient_checkpointing": True,
        "rows_per_pass": 1,
        "compile": True,
        "skip_not_finite": 1,
        "preview_every": 1,
        "preview_prompts": ("another",),
        "preview_negative": "base",
        "checkpoint_every": 1,
        "tracker": "tensorboard",
    }
    free = {f.name for f in fields(ContentConfig) if not f.metadata["affects_result"]}
    assert {*moved} == free - {"shard"}, "and that one wants two processes: test_survive"
    assert not free & {f.name for f in deciding(ContentConfig)}
    assert train(settings("content", started, **moved)).seconds == 0


def test_a_state_of_another_version_of_the_file_is_not_mixed_in(settings, trained, tmp_path):
    """The concept files are compared by what they hold, not by their names."""
    config = settings("second", tmp_path / "second", **files_of(trained, "second"))
    train(config)
    copy = tmp_path / "moved.safetensors"
    copy.write_bytes(Path(trained["content_file"]).read_bytes())
    assert train(replace(config, content_file=str(copy))).seconds == 0
    other = train(settings("content", tmp_path / "content", seed=5))
    with pytest.raises(UserError, match="content-file"):
        train(replace(config, content_file=str(other.path)))


def test_a_state_of_a_release_without_some_setting_goes_on_with_its_default(settings, tmp_path):
    config = settings("content", tmp_path)
    old = settings_of(config, {}, 1)
    del old["quantize"]
    check_same(config, old, settings_of(config, {}, 1))
    other = replace(config, quantize="int8")
    with pytest.raises(UserError, match="quantize none, now it is int8"):
        check_same(other, old, settings_of(other, {}, 1))


def test_a_setting_that_decides_no_longer_is_no_reason_to_refuse(settings, tmp_path):
    """A release may learn that a setting leaves the result as it is; what is no setting at all must still agree."""
    config = settings("content", tmp_path)
    now = settings_of(config, {}, 1)
    check_same(config, {**now, "gradient_checkpointing": True}, now)
    with pytest.raises(UserError, match="of-old 3, now it is None"):
        check_same(config, {**now, "of_old": 3}, now)


def test_a_state_whose_optimizer_is_laid_out_otherwise_is_refused_and_stays(settings, tmp_path):
    """As earlier versions did: a tensor for each layer's factor, where there is one for all layers of a shape."""
    train(settings("content", tmp_path, steps=1))
    step, tensors, meta = load_state(tmp_path / "state")
    for group in meta["groups"]:
        group["params"] = group["params"] * 2
    save_state(tmp_path / "state", step, tensors, meta)
    with pytest.raises(UserError, match="saved by an earlier version, .* give another --output-dir"):
        train(settings("content", tmp_path, steps=2))
    assert load_state(tmp_path / "state")[0] == 1
