"""What a run leaves for people: a line a step, the curves, the images it was shown, its last words."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from accelerate.utils import LoggerType
from conftest import refused
from loops import same_files

from b4m.core.errors import UserError
from b4m.core.storage import PARTIAL
from b4m.training.logbook import Logbook
from b4m.training.loop import Loop, train


def test_log_and_result(settings, tmp_path, capsys):
    result = train(settings("content", tmp_path, steps=2))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert [record["loss"] for record in records] == result.losses
    assert all(abs(r["loss"] - r["target_loss"] - r["partner_loss"]) < 1e-5 for r in records)
    assert result.seconds > 0 and result.peak_mb > 10
    last = capsys.readouterr().out.splitlines()[-1]
    assert str(result.path) in last and " MB" in last and " s," in last


def test_a_log_with_a_torn_end_and_lost_lines_goes_on(settings, tmp_path):
    """Power cuts and crashes: what is whole stays, each step once."""
    train(settings("content", tmp_path, steps=3))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text(
        "\n".join([lines[0], lines[0], "[" * 99_999, lines[2], '{"step": 4, "lo'])
    )
    train(settings("content", tmp_path, steps=5))
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()] == [1, 3, 4, 5]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    book = Logbook(tmp_path, Accelerator(), 0)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match="log.jsonl: cannot be written .*the last saved state stays"):
        book.add({"step": 1, "loss": 0.5})


def test_tensorboard_has_every_step_once_after_a_crash(settings, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings("content", tmp_path, steps=4, tracker="tensorboard", checkpoint_every=1)
    add = Logbook.add
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Logbook, "add", lambda self, record: (add(self, record), record["step"] == 3 and 1 / 0))
        train(config)
    losses = train(config).losses
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [
        (step, pytest.approx(loss)) for step, loss in enumerate(losses, start=1)
    ]


class StandIn:
    """Weights & Biases as far as it is used: runs by their id, each with the values of its steps."""

    def __init__(self, monkeypatch) -> None:
        self.runs: dict[str, list[tuple[int, float]]] = {}
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=self.init))
        for module in ("accelerate.tracking", "b4m.training.launch"):
            monkeypatch.setattr(f"{module}.get_available_trackers", lambda: [LoggerType.WANDB])

    def init(self, project: str, id: str, resume: str, **known) -> SimpleNamespace:
        assert project == "b4m" and resume == "allow"
        told = self.runs.setdefault(id, [])

        def log(values: dict, step: int) -> None:
            told.append((step, values["loss"]))

        return SimpleNamespace(log=log, finish=lambda: None, step=told[-1][0] + 1 if told else 0)


def test_wandb_has_every_step_once_after_a_crash_in_one_run_of_the_folder(settings, tmp_path, monkeypatch):
    wandb = StandIn(monkeypatch)
    config = settings("content", tmp_path / "a", steps=4, tracker="wandb", checkpoint_every=1)
    micro_step = Loop.micro_step
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Loop, "micro_step", lambda loop, i: micro_step(loop, i) if loop.step < 2 else 1 / 0)
        train(config)
    losses = train(config).losses
    assert [*wandb.runs.values()] == [[*enumerate(losses, start=1)]]
    train(settings("content", tmp_path / "b", steps=1, tracker="wandb"))
    assert len(wandb.runs) == 2


def test_a_tracker_that_does_not_start_or_is_not_installed_is_one_line(settings, tmp_path, monkeypatch):
    config = settings("content", tmp_path / "run", steps=1, tracker="wandb")
    with monkeypatch.context() as patch:
        patch.setattr("b4m.training.launch.get_available_trackers", lambda: [LoggerType.TENSORBOARD])
        refused(lambda: train(config), "--tracker wandb", 'pip install "b4m[wandb]"')
        assert not (tmp_path / "run").exists()
    StandIn(monkeypatch)
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **known: 1 / 0)
    refused(lambda: train(config), "--tracker wandb", "does not start", "WANDB_MODE=offline")


def test_what_killed_writers_left_behind_goes(settings, tmp_path):
    (tmp_path / "previews").mkdir()
    for folder in (tmp_path, tmp_path / "previews"):
        (folder / f"{PARTIAL}x.png").write_text("half")
    train(settings("content", tmp_path, steps=1))
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))


def test_images_may_go_while_a_run_is_under_way(settings, folders, tmp_path, monkeypatch):
    """All images are in memory before the first step, and pictures.json says which they were."""
    whole = train(settings("content", tmp_path / "whole"))
    copy = tmp_path / "pictures"
    shutil.copytree(folders["content"], copy)
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(copy.iterdir())]
    micro_step = Loop.micro_step

    def careless(loop, index):
        shutil.rmtree(copy, ignore_errors=True)
        return micro_step(loop, index)

    monkeypatch.setattr(Loop, "micro_step", careless)
    assert same_files(train(settings("content", tmp_path / "run", content_dir=str(copy))).path, whole.path)
    assert not copy.exists()
    rows = json.loads((tmp_path / "run/pictures.json").read_text())
    assert [row["sha256"] for row in rows if row["shows"] == "content"] == sums
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "0.png", "0.png", "1.png"]
    assert {row["shows"] for row in rows} == {"content", "partner style"}
    assert rows[0]["prompt"] == "a photo of snq object"


def test_what_was_given_is_said_before_the_first_step_and_written_down(settings, folders, tmp_path, capsys):
    shutil.copytree(folders["content"], tmp_path / "in/sub")
    for name in ("0.png", "1.png"):
        shutil.copy(tmp_path / "in/sub" / name, tmp_path / "in" / name)
    (tmp_path / "in/1.txt").write_text("a bear in " + "yarn style " * 9)
    train(settings("content", tmp_path / "run", content_dir=str(tmp_path / "in"), steps=1))
    said = capsys.readouterr().out.splitlines()
    memory = next(place for place, line in enumerate(said) if line.startswith("memory:"))
    assert said[0] == 'content: 2 images; captions: 1 from .txt, 1 missing (used: "a photo of snq object")'
    assert memory > 3
    rows = json.loads((tmp_path / "run/pictures.json").read_text())
    zero, one, *_, sub = rows
    assert (zero["prompt_from"], zero["notes"], one["prompt_from"], len(one["notes"])) == (
        "settings",
        [],
        ".txt",
        2,
    )
    assert (Path(sub["file"]).name, sub["shows"], len(sub["notes"])) == ("sub", "nothing", 1)
