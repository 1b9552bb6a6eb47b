"""The loop: routing as in Eq. 12, the same file twice, resume bit for bit, nothing lost or half-written."""

import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel

from b4m.backbones import frozen
from b4m.backbones.sdxl import load_base
from b4m.core.errors import UserError
from b4m.core.lock import exclusive
from b4m.core.storage import PARTIAL
from b4m.files.concept import load_concept
from b4m.files.lora import load_lora
from b4m.maths.adapter import HALVES
from b4m.maths.objective import add_noise, draw, regression_target, row_losses
from b4m.methods import stages
from b4m.training import loop as module
from b4m.training.logbook import Logbook
from b4m.training.loop import Run, train
from b4m.training.resume import check_same, settings_of
from b4m.training.state import load_state, save_state


def loaded(config) -> Run:
    run = Run(config)
    run.find_state()
    run.load()
    return run


def step(run: Run) -> None:
    """What the loop does with whatever gradients the passes have left."""
    run.stacks.gather()
    run.optimizer.step()


def separate_passes(run: Run, number: int) -> dict[str, list[torch.Tensor]]:
    """Gradients of Eq. 12, one pass per row; target rows to one half, partner rows to the other."""
    stage, cache = run.stage, run.cache
    noise, timesteps = draw(run.config.seed, number, range(stage.rows), cache.latents.shape[1:], 1000)
    target_half = "content" if run.config.stage == "content" else "style"
    gradients = {}
    for half in ("content", "style"):
        total = 0
        rows = stage.is_target if half == target_half else ~stage.is_target
        for row in rows.nonzero()[:, 0].tolist():
            picture = torch.tensor([stage.picked(run.config.seed, number)[row]])
            x, e, t = cache.latents[picture], noise[[row]], timesteps[[row]]
            out = run.pipe.unet(
                add_noise(x, e, t, run.alphas_cumprod).to(run.pipe.unet.dtype),
                t,
                **cache.conditioning(picture),
            ).sample
            target = regression_target(x, e, t, run.alphas_cumprod, run.prediction_type)
            total = total + row_losses(out, target)[0] / rows.sum()
        gradients[half] = torch.autograd.grad(total, run.adapter.parameters_of(half))
    return gradients


@pytest.mark.parametrize("stage", ["content", "style"])
def test_one_routed_pass_equals_the_separate_passes(stage, settings, tmp_path):
    run = loaded(settings(stage, tmp_path, target_rows=2, lr=0.05, partner_lr=0.05))
    run.pipe.unet.double()  # so that only the routing is compared, and not the order of float32 sums
    run.cache = replace(run.cache, hidden=run.cache.hidden.double(), pooled=run.cache.pooled.double())
    for run.step in range(2):  # the second time from halves that are not zero
        run.stacks.zero_grad()
        run.micro_step(0)
        expected = separate_passes(run, run.step)
        for half in ("content", "style"):
            for parameter, gradient in zip(run.adapter.parameters_of(half), expected[half], strict=True):
                assert gradient.abs().max() > 0
                assert (parameter.grad - gradient).abs().max() <= 1e-6 * gradient.abs().max()
        step(run)


def test_the_content_loss_gives_the_style_half_nothing(settings, tmp_path):
    """Make the partners' loss vanish: what then reaches D came from the content, and must be exactly zero."""
    run = loaded(settings("content", tmp_path))
    run.is_target = torch.ones(run.stage.rows, dtype=torch.bool)
    run.is_target[-1] = False
    run.denoiser = partner_free(run.denoiser, run.stage.content_rows)
    run.micro_step(0)
    assert all(parameter.grad.any() for parameter in run.adapter.parameters_of("content"))
    assert not any(parameter.grad.any() for parameter in run.adapter.parameters_of("style"))


def partner_free(make, content_rows):
    def denoiser(rows, first):
        inner = make(rows, first)

        def predict(noisy, timesteps):
            out = inner(noisy, timesteps)
            return torch.cat([out[:content_rows], out[content_rows:].detach()])

        return predict

    return denoiser


@pytest.mark.parametrize(
    ("stage", "optimizer"),
    [
        ("content", "adamw"),
        ("style", "adamw"),
        ("second", "adamw"),
        ("second", "riemannian-adamw"),
        ("second", "riemannian-sgd"),
    ],
)
def test_every_optimizer_sees_gradients_and_moves_both_halves(
    stage, optimizer, settings, trained, tmp_path, monkeypatch
):
    files = {k: trained[k] for k in ("content_file", "style_file")} if stage == "second" else {}
    run = loaded(settings(stage, tmp_path, optimizer=optimizer, **files))
    before = [parameter.detach().clone() for parameter in run.named.values()]
    seen = []
    inner = run.optimizer.optimizer
    take = inner.step
    monkeypatch.setattr(
        inner, "step", lambda *args: (seen.append([p.grad.abs().sum() for p in run.named.values()]), take())
    )
    run.micro_step(0)
    step(run)
    assert len(seen) == 1 and all(total > 0 for total in seen[0])
    assert all(not torch.equal(old, new) for old, new in zip(before, run.named.values(), strict=True))


def test_second_stage_loop_starts_from_the_files_and_sends_every_row_to_both(settings, trained, tmp_path):
    files = {k: trained[k] for k in ("content_file", "style_file")}
    run = loaded(settings("second", tmp_path, **files))
    for kind in ("content", "style"):
        tensors = load_concept(trained[f"{kind}_file"]).tensors
        assert all(torch.equal(tensor, tensors[layer]) for layer, tensor in run.adapter.half(kind).items())
    run.denoiser = partner_free(run.denoiser, run.config.target_rows)  # content rows alone ...
    run.micro_step(0)
    assert all(parameter.grad.any() for parameter in run.named.values())  # ... reach B and D


def same_files(one: Path, two: Path) -> bool:
    return Path(one).read_bytes() == Path(two).read_bytes()


@pytest.mark.parametrize("stage", ["content", "second"])
def test_same_seed_same_file_another_seed_another(stage, settings, trained, tmp_path):
    files = {k: trained[k] for k in ("content_file", "style_file")} if stage == "second" else {}
    one = train(settings(stage, tmp_path / "one", **files))
    torch.manual_seed(123)
    two = train(settings(stage, tmp_path / "two", **files))
    other = train(settings(stage, tmp_path / "other", seed=3, **files))
    assert same_files(one.path, two.path) and one.losses == two.losses
    assert not same_files(one.path, other.path) and one.losses != other.losses


def stop_after(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """The run gets a signal in the middle of that step."""
    micro_step = Run.micro_step

    def interrupted(self, index):
        if self.step == step - 1 and index == 0:
            os.kill(os.getpid(), number)
        return micro_step(self, index)

    monkeypatch.setattr(Run, "micro_step", interrupted)


@pytest.mark.parametrize(
    ("stage", "stops", "changes"),
    [
        ("content", [2], {"lr_schedule": "cosine", "gradient_accumulation": 2}),
        ("content", [1, 3], {}),
        ("style", [3], {"gradient_accumulation": 2, "target_rows": 2}),
        ("second", [1, 3], {}),
        ("second", [2], {"optimizer": "riemannian-sgd", "lr_schedule": "linear"}),
        ("joint", [2], {"routing": False}),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_stopped_and_continued_is_the_run_that_was_not(
    stage, stops, changes, settings, trained, tmp_path, monkeypatch
):
    files = {k: trained[k] for k in ("content_file", "style_file")} if stage == "second" else {}
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
    assert loaded(longer).schedule.get_last_lr()[0] == pytest.approx(
        longer.lr / 2
    )  # halfway down, not at its end
    assert "--steps 4, before 2: the learning rates follow the new length" in capsys.readouterr().out


def test_the_result_of_a_shorter_run_is_not_taken_for_that_of_the_longer_one(settings, tmp_path, monkeypatch):
    """Prolonged, and killed between the last state and the result."""
    whole = train(settings("content", tmp_path / "whole", steps=2, lr_schedule="constant"))
    train(settings("content", tmp_path / "run", steps=1, lr_schedule="constant"))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Run, "save_result", lambda self: 1 / 0)
        train(settings("content", tmp_path / "run", steps=2, lr_schedule="constant"))
    assert same_files(
        whole.path, train(settings("content", tmp_path / "run", steps=2, lr_schedule="constant")).path
    )


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


def test_a_log_with_a_torn_end_and_lost_lines_goes_on(settings, tmp_path):
    """Power cuts and crashes: what is whole stays, each step once."""
    train(settings("content", tmp_path, steps=3))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text(
        "\n".join([lines[0], lines[0], "[" * 99_999, lines[2], '{"step": 4, "lo'])
    )
    train(settings("content", tmp_path, steps=5))
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()] == [1, 3, 4, 5]


def test_a_preview_that_a_kill_prevented_is_drawn_by_the_next_run(settings, tmp_path, monkeypatch):
    changes = {"steps": 2, "preview_every": 2}
    train(settings("content", tmp_path / "whole", **changes))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Run, "preview", lambda self, taken: 1 / 0)
        train(settings("content", tmp_path / "run", **changes))
    train(settings("content", tmp_path / "run", **changes))
    whole, parts = (list((tmp_path / name / "previews").iterdir()) for name in ("whole", "run"))
    assert [path.name for path in parts] == ["step-000002.png"] and same_files(whole[0], parts[0])


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


def test_what_killed_writers_left_behind_goes(settings, tmp_path):
    (tmp_path / "previews").mkdir()
    for folder in (tmp_path, tmp_path / "previews"):
        (folder / f"{PARTIAL}x.png").write_text("half")
    train(settings("content", tmp_path, steps=1))
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))


def test_a_crash_goes_back_to_the_last_state(settings, tmp_path, monkeypatch):
    whole = train(settings("style", tmp_path / "whole", steps=4))
    config = settings("style", tmp_path / "parts", steps=4, checkpoint_every=2)
    add = Logbook.add
    monkeypatch.setattr(
        Logbook, "add", lambda self, record: (add(self, record), record["step"] == 3 and 1 / 0)
    )
    with pytest.raises(ZeroDivisionError):
        train(config)
    monkeypatch.undo()
    assert len((tmp_path / "parts/log.jsonl").read_text().splitlines()) == 3  # step 3 will be taken again
    continued = train(config)
    assert same_files(whole.path, continued.path)
    assert [json.loads(line)["step"] for line in (tmp_path / "parts/log.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]


def test_a_finished_run_is_left_alone(settings, tmp_path, capsys, monkeypatch):
    config = settings("content", tmp_path / "run")
    first = train(config)
    stamp = first.path.stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr(module, "load_base", None)  # not even the base is loaded
    again = train(config)
    assert "finished before" in capsys.readouterr().out
    assert (
        again.losses == first.losses and again.path == first.path and first.path.stat().st_mtime_ns == stamp
    )


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
def test_other_settings_refuse_to_continue(change, named, settings, folders, tmp_path_factory, tmp_path):
    if "content_dir" in change:
        change = {"content_dir": folders["styles"][0]}
    run = started(settings, tmp_path_factory)
    with pytest.raises(UserError, match=named):
        train(settings("content", run, **change))


_STARTED = []


def started(settings, factory) -> Path:
    """One folder with a run in it, for all the refusals."""
    if not _STARTED:
        _STARTED.append(factory.mktemp("started"))
        train(settings("content", _STARTED[0]))
    return _STARTED[0]


def test_settings_that_do_not_matter_may_change(settings, folders, tmp_path_factory):
    moved = {"preview_every": 1, "checkpoint_every": 1, "gradient_checkpointing": True, "skip_not_finite": 1}
    of_others = {
        "damping": 0.5,
        "optimizer": "adamw",
        "style_class": "x",
    }  # a content's training reads none of them
    assert train(settings("content", started(settings, tmp_path_factory), **moved, **of_others)).seconds == 0


def test_a_state_of_a_release_without_some_setting_goes_on_with_its_default(settings, tmp_path):
    def told(**changes) -> dict:
        return settings_of(settings("content", tmp_path, **changes), {}, 1)

    old = {name: value for name, value in told().items() if name != "quantize"}
    check_same(old, told(), tmp_path)
    with pytest.raises(UserError, match="quantize none, now it is int8"):
        check_same(old, told(quantize="int8"), tmp_path)


def test_a_state_whose_optimizer_is_laid_out_otherwise_is_refused_and_stays(settings, tmp_path):
    """As earlier versions did: a tensor for each layer's half, where there is one for all layers of a shape."""
    train(settings("content", tmp_path, steps=1))
    step, tensors, meta = load_state(tmp_path / "state")
    for group in meta["groups"]:
        group["params"] = group["params"] * 2
    save_state(tmp_path / "state", step, tensors, meta)
    with pytest.raises(UserError, match="saved by an earlier version, .* give another --output-dir"):
        train(settings("content", tmp_path, steps=2))
    assert load_state(tmp_path / "state")[0] == 1


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(settings, tmp_path, monkeypatch):
    config = settings("content", tmp_path, steps=5, checkpoint_every=2)
    average = Run.average
    monkeypatch.setattr(
        Run,
        "average",
        lambda self, values, stop: average(self, values * (float("nan") if self.step == 3 else 1), stop),
    )
    with pytest.raises(UserError, match="the loss is nan at step 4"):
        train(config)
    step, tensors, _ = load_state(tmp_path / "state")
    assert step == 2 and all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert not (tmp_path / "content.safetensors").exists()


def poison(monkeypatch, config, step: int, name: str, gradient: bool) -> None:
    """In that step the picture `name` has a loss of NaN, or only a gradient of NaN."""
    denoiser = Run.denoiser

    def poisoned(run, rows, first):
        inner = denoiser(run, rows, first)
        hit = [run.step == step - 1 and run.stage.pictures[i].path.name == name for i in rows.tolist()]
        factor = torch.where(torch.tensor(hit), float("nan"), 1.0)[:, None, None, None]

        def predict(noisy, timesteps):
            out = inner(noisy, timesteps)
            if not gradient:
                return out * factor
            out.register_hook(lambda g: g * factor)
            return out

        return predict

    monkeypatch.setattr(Run, "denoiser", poisoned)


def bear(folders, tmp_path) -> str:
    """A content of one picture with a name of its own."""
    (tmp_path / "in").mkdir()
    shutil.copy(Path(folders["content"]) / "0.png", tmp_path / "in/bear.png")
    return str(tmp_path / "in")


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_what_is_not_finite_is_named_by_step_row_and_picture(
    settings, folders, tmp_path, monkeypatch, gradient, clip
):
    config = settings(
        "content",
        tmp_path / "out",
        content_dir=bear(folders, tmp_path),
        checkpoint_every=1,
        max_grad_norm=clip,
    )
    poison(monkeypatch, config, 2, "bear.png", gradient)
    with pytest.raises(UserError) as caught:
        train(config)
    message, what = str(caught.value), "the gradient is not finite" if gradient else "the loss is nan"
    assert f"{what} at step 2 in row 1 ({tmp_path}/in/bear.png)" in message
    assert "chalk" not in message and "neon" not in message  # the partners had no part in it
    step, tensors, _ = load_state(tmp_path / "out/state")
    assert step == 1 and all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert not (tmp_path / "out/content.safetensors").exists()


def test_steps_that_are_not_finite_may_be_left_out_up_to_a_count(settings, folders, tmp_path, monkeypatch):
    pictures = {"content_dir": bear(folders, tmp_path), "steps": 3, "checkpoint_every": 1}
    config = settings("content", tmp_path / "out", skip_not_finite=1, **pictures)
    poison(monkeypatch, config, 2, "bear.png", False)
    result = train(config)
    records = [json.loads(line) for line in (tmp_path / "out/log.jsonl").open()]
    assert "bear.png" in records[1]["skipped"] and "loss" not in records[1] and len(records) == 3
    assert result.losses == [records[0]["loss"], records[2]["loss"]]
    with monkeypatch.context() as patch:  # the next one is one too many, also for a run that goes on
        poison(patch, config, 4, "bear.png", True)
        with pytest.raises(UserError, match="the gradient is not finite at step 4"):
            train(replace(config, steps=5))
        assert len(train(replace(config, steps=5, skip_not_finite=2)).losses) == 3


def test_a_step_left_out_moves_nothing(settings, folders, tmp_path, monkeypatch):
    run = loaded(settings("content", tmp_path, skip_not_finite=1))
    before = [parameter.detach().clone() for parameter in run.named.values()]
    run.micro_step(0)
    next(iter(run.named.values())).grad[0, 0] = float("inf")
    assert run.advance(1.0) is False
    assert all(torch.equal(old, new) for old, new in zip(before, run.named.values(), strict=True))


def test_weights_that_are_not_finite_are_never_saved(settings, tmp_path, monkeypatch):
    advance = Run.advance

    def explode(run, loss):
        moved = advance(run, loss)
        list(run.named.values())[3].data[0, 0] = float("inf") if run.step == 1 else 0.0
        return moved

    monkeypatch.setattr(Run, "advance", explode)
    with pytest.raises(UserError, match="weights are not finite after step 2"):
        train(settings("content", tmp_path, checkpoint_every=1))
    step, tensors, _ = load_state(tmp_path / "state")
    assert step == 1 and all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_wrappers_that_would_not_see_the_halves_are_refused(kind, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    with pytest.raises(
        UserError, match=f"accelerate is set to {kind.value}.* --multi_gpu instead, and give --shard"
    ):
        Run(settings("content", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    book = Logbook(tmp_path, Accelerator(), 0)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match="log.jsonl: cannot be written .*the last saved state stays"):
        book.add({"step": 1, "loss": 0.5})


def test_pictures_may_go_while_a_run_is_under_way(settings, folders, tmp_path, monkeypatch):
    """All pictures are in memory before the first step, and pictures.json says which they were."""
    whole = train(settings("content", tmp_path / "whole"))
    copy = tmp_path / "pictures"
    shutil.copytree(folders["content"], copy)
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(copy.iterdir())]
    micro_step = Run.micro_step

    def careless(run, index):
        shutil.rmtree(copy, ignore_errors=True)
        return micro_step(run, index)

    monkeypatch.setattr(Run, "micro_step", careless)
    assert same_files(train(settings("content", tmp_path / "run", content_dir=str(copy))).path, whole.path)
    rows = json.loads((tmp_path / "run/pictures.json").read_text())
    assert [row["sha256"] for row in rows if row["shows"] == "content"] == sums
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "0.png", "0.png", "1.png"]
    assert {row["shows"] for row in rows} == {"content", "partner style"}
    assert rows[0]["prompt"] == "a photo of snq object"


def test_a_gpu_that_is_too_small_is_told_in_one_line(settings, tmp_path, monkeypatch):
    def full(self, index):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Run, "micro_step", full)
    with pytest.raises(UserError, match="--gradient-checkpointing"):
        train(settings("content", tmp_path))


def test_previews_are_drawn_and_leave_the_training_as_it_is(settings, tmp_path):
    plain = train(settings("content", tmp_path / "plain"))
    drawn = train(settings("content", tmp_path / "drawn", preview_every=2))
    assert same_files(plain.path, drawn.path)
    assert [path.name for path in (tmp_path / "drawn/previews").iterdir()] == ["step-000002.png"]


def test_only_b_and_d_change(settings, tmp_path):
    run = loaded(settings("content", tmp_path, lr=0.1, partner_lr=0.1, weight_decay=0.5))
    learnable = {id(parameter) for parameter in run.named.values()}
    frozen = [t for t in [*run.pipe.unet.parameters(), *run.pipe.unet.buffers()] if id(t) not in learnable]
    frozen += [t for layer in run.adapter.layers.values() for t in (layer.A, layer.C)]
    before = [tensor.clone() for tensor in frozen]
    for run.step in range(3):
        run.stacks.zero_grad()
        run.micro_step(0)
        step(run)
    assert all(torch.equal(old, new) for old, new in zip(before, frozen, strict=True))


def test_the_unet_comes_to_the_device_when_the_encoders_have_left_it(settings, tmp_path, monkeypatch):
    """A card need never hold both."""
    order = []
    to, free = UNet2DConditionModel.to, module.free
    monkeypatch.setattr(
        UNet2DConditionModel,
        "to",
        lambda unet, *where: (order.append(f"unet to {where[0]}"), to(unet, *where))[1],
    )
    monkeypatch.setattr(module, "free", lambda pipe, **options: (order.append("free"), free(pipe, **options)))
    loaded(settings("content", tmp_path))
    assert order == ["free", "unet to cpu"]


def test_training_frees_all_but_the_unet(settings, tmp_path):
    run = loaded(settings("content", tmp_path))
    assert run.pipe.text_encoder is None and run.pipe.text_encoder_2 is None and run.pipe.vae is None


def test_accumulation_averages_the_passes(settings, tmp_path):
    run = loaded(settings("content", tmp_path, gradient_accumulation=2))
    single = loaded(settings("content", tmp_path / "x", gradient_accumulation=1))
    for index in range(2):
        run.micro_step(index)
        single.step = index
        single.micro_step(0)
    for two, one in zip(run.named.values(), single.named.values(), strict=True):
        torch.testing.assert_close(two.grad, one.grad / 2)


@pytest.fixture
def new_precision():
    """accelerate keeps one precision per process, unless it is told to forget it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def gradient(run: Run) -> torch.Tensor:
    run.micro_step(0)
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in run.named.values())
    return torch.cat([parameter.grad.flatten() for parameter in run.named.values()])


def test_gradient_checkpointing_changes_nothing(settings, tmp_path):
    plain = gradient(loaded(settings("content", tmp_path / "a")))
    run = loaded(settings("content", tmp_path / "b", gradient_checkpointing=True))
    assert run.pipe.unet.is_gradient_checkpointing
    torch.testing.assert_close(gradient(run), plain)


def test_bfloat16_trains_the_same_thing(new_precision, settings, tiny_base, tmp_path):
    run = loaded(settings("content", tmp_path, mixed_precision="bf16"))
    assert run.pipe.unet.dtype == torch.bfloat16
    rough = gradient(run)
    run.pipe = load_base(tiny_base)
    run.adapter = stages.install(run.stage, run.pipe.unet, tiny_base)
    run.named = dict(enumerate(p for half in HALVES for p in run.adapter.parameters_of(half)))
    run.cache = replace(
        run.cache,
        hidden=run.cache.hidden.float(),
        pooled=run.cache.pooled.float(),
        time_ids=run.cache.time_ids.float(),
    )
    exact = gradient(run)
    assert (rough - exact).norm() <= 0.1 * exact.norm()


def test_log_and_result(settings, tmp_path, capsys):
    result = train(settings("content", tmp_path, steps=2))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert [record["loss"] for record in records] == result.losses
    assert all(abs(r["loss"] - r["target_loss"] - r["partner_loss"]) < 1e-5 for r in records)
    assert result.seconds > 0 and result.peak_mb > 10
    last = capsys.readouterr().out.splitlines()[-1]
    assert str(result.path) in last and " MB" in last and " s," in last


@pytest.mark.parametrize(
    "changes",
    [
        {"base_model": "/nowhere/base"},
        {"content_dir": "/nowhere/pictures"},
        {"resolution": 18},
        {"vae": "/nowhere/vae"},
    ],
)
def test_bad_input_writes_nothing(changes, settings, tmp_path):
    with pytest.raises(UserError):
        train(settings("content", tmp_path / "out", **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(settings, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="--output-dir"):
        train(settings("content", tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_the_fused_file_is_finite_and_differs_from_its_start(trained):
    layers, _ = load_lora(trained["lora_file"])
    B = load_concept(trained["content_file"]).tensors
    assert all(not torch.equal(up[-len(B[layer]) :], B[layer]) for layer, (up, _) in layers.items())


def test_a_state_of_another_version_of_the_file_is_not_mixed_in(settings, trained, tmp_path):
    """The concept files are compared by what they hold, not by their names."""
    config = settings(
        "second", tmp_path / "second", content_file=trained["content_file"], style_file=trained["style_file"]
    )
    train(config)
    other = train(settings("content", tmp_path / "content", seed=5))
    with pytest.raises(UserError, match="content-file"):
        train(replace(config, content_file=str(other.path)))


@pytest.mark.parametrize(
    ("changes", "reaches"),
    [({}, "its own"), ({"routing": False}, "both"), ({"ratio": 0.0, "routing": False}, "both")],
    ids=["w/o MCP-I", "without routing", "JTtrain"],
)
def test_joint_run_learns_both_from_nothing(changes, reaches, settings, tmp_path):
    run = loaded(settings("joint", tmp_path / "joint", **changes))
    run.denoiser = partner_free(run.denoiser, run.config.target_rows)  # only content rows have a gradient
    run.micro_step(0)
    total = {name: parameter.grad.abs().sum() for name, parameter in run.named.items()}
    assert all(value > 0 for name, value in total.items() if name.startswith("content"))
    if reaches == "its own":
        assert not any(value > 0 for name, value in total.items() if name.startswith("style"))
    elif "ratio" not in changes:  # at ratio 0, B is zero at the start, and D waits for it as in any LoRA
        assert all(value > 0 for name, value in total.items() if name.startswith("style"))


def test_joint_result_is_two_concepts_and_their_lora_and_a_second_stage_goes_on_from_it(settings, tmp_path):
    joint = train(settings("joint", tmp_path / "joint", ratio=0.0, routing=False, lr=0.05))
    files = {
        f"{kind}_file": str(joint.path.with_name(f"{kind}.safetensors")) for kind in ("content", "style")
    }
    content, style = (load_concept(file) for file in files.values())
    assert content.metadata["prompt"] == "a photo of snq object" and style.metadata["trigger"] == "w@z"
    layers, metadata = load_lora(joint.path)
    for name, (up, down) in layers.items():  # nothing is frozen: B and D are the whole LoRA
        assert torch.equal(up, content.tensors[name]) and torch.equal(down, style.tensors[name])
    assert metadata["b4m.content_trigger"] == "snq" and metadata["b4m.unet_hash"] == content.unet_hash
    second = train(settings("second", tmp_path / "second", **files))
    assert load_lora(second.path)[0].keys() == layers.keys()


def test_at_ratio_zero_both_halves_learn(settings, tmp_path):
    run = loaded(settings("joint", tmp_path, ratio=0.0, routing=False, lr=0.01))
    before = [parameter.detach().clone() for parameter in run.named.values()]
    for run.step in range(2):
        run.stacks.zero_grad()
        run.micro_step(0)
        step(run)
    assert all(not torch.equal(old, new) for old, new in zip(before, run.named.values(), strict=True))


def test_content_dir_may_be_pictures(settings, folders, tmp_path):
    files = tuple(str(Path(folders["content"]) / f"{i}.png") for i in (0, 2))
    run = loaded(settings("content", tmp_path, content_dir=files))
    assert [picture.path.name for picture in run.stage.pictures[:2]] == ["0.png", "2.png"]
    assert len(run.stage.sources[0].pictures) == 2


def test_a_second_run_into_one_folder_is_refused(settings, tmp_path):
    config = settings("content", tmp_path / "run")
    (tmp_path / "run").mkdir()
    with exclusive(tmp_path / "run"), pytest.raises(UserError, match="another run is at work in this folder"):
        train(config)
    assert not (tmp_path / "run" / "log.jsonl").exists()
    train(config)


@pytest.mark.parametrize(("stage", "at_once"), [("content", 1), ("content", 3), ("style", 3), ("joint", 1)])
def test_rows_in_turn_leave_the_same_gradients(stage, at_once, settings, tmp_path):
    found = []
    for rows_per_pass in (None, at_once):
        config = settings(stage, tmp_path, target_rows=2, lr=0.05, rows_per_pass=rows_per_pass)
        run = loaded(config)
        run.pipe.unet.double()  # the adapter stays float32: what differs is the order of few sums
        shapes, inner = [], run.pipe.unet.forward
        run.pipe.unet.forward = lambda x, *a, inner=inner, shapes=shapes, **k: (
            shapes.append(len(x)),
            inner(x, *a, **doubled(k)),
        )[1]
        losses = run.micro_step(0)
        found.append((losses, [p.grad.clone() for p in run.named.values()], shapes))
    (losses, whole, one), (others, parts, several) = found
    assert one == [run.stage.rows] and max(several) == at_once and sum(several) == run.stage.rows
    torch.testing.assert_close(others, losses, rtol=1e-6, atol=0)
    for a, b in zip(parts, whole, strict=True):
        assert b.any() and (a - b).abs().max() <= 1e-6 * b.abs().max()


def doubled(values):
    """Every floating tensor of a UNet's arguments as float64."""
    if isinstance(values, dict):
        return {key: doubled(value) for key, value in values.items()}
    return values.double() if torch.is_tensor(values) and values.is_floating_point() else values


def test_memory_is_estimated_before_the_first_step(settings, tmp_path, capsys, monkeypatch):
    train(settings("content", tmp_path / "a", steps=1))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory:"))
    assert "free" in line and "--rows-per-pass" not in line
    monkeypatch.setattr("b4m.backbones.footprint.free_bytes", lambda device: 1000)
    train(settings("content", tmp_path / "b", steps=1))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory:"))
    assert all(option in line for option in ("--rows-per-pass 1", "--gradient-checkpointing", "bf16"))


def test_compiled_blocks_train_the_same_thing(settings, tmp_path, monkeypatch):
    """The tracer alone, without the compiler behind it, which is no matter of ours and takes a minute."""
    import torch._dynamo

    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    made = []
    compile_blocks = frozen.compile_blocks
    monkeypatch.setattr(
        frozen,
        "compile_blocks",
        lambda unet: (
            compile_blocks(unet, backend=backend, fullgraph=True),
            setattr(torch._dynamo.config, "suppress_errors", False),
        ),
    )

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    plain, compiled = (
        train(settings("content", tmp_path / str(flag), steps=2, compile=flag)) for flag in (False, True)
    )
    assert made and compiled.losses == pytest.approx(plain.losses, rel=1e-4)
