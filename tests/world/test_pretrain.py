"""Pretraining of the base, on a shard of eight pictures: stopped and continued, at half the size, as two
processes, and the decoder after the UNet."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from world import dataset, pretrain, pretrain_autoencoder, pretrain_unet
from world.blank import blank_pipeline
from world.run import Run
from world.vocabulary import MAX_TOKENS


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with one small shard and an autoencoder; the fused AdamW and bfloat16 stay as they are in earnest."""
    for module in (dataset, pretrain, pretrain_autoencoder, pretrain_unet):
        monkeypatch.setattr(module, "SHARD", 8)
    dataset.draw_shard(tmp_path, 0, 0)
    vae = blank_pipeline().vae.state_dict()
    save_file({k: v.contiguous() for k, v in vae.items()}, tmp_path / "autoencoder-final.safetensors")
    return tmp_path


def train(work, monkeypatch, steps, *more, part="unet"):
    arguments = ["pretrain.py", part, "--work", str(work), "--steps", str(steps), "--batch", "4", *more]
    monkeypatch.setattr(sys, "argv", arguments)
    pretrain.main()
    return load_file(work / f"{part}.safetensors")


def test_a_run_that_was_stopped_ends_in_the_same_bits(work, monkeypatch):
    straight = train(work, monkeypatch, 2)
    (work / "unet.safetensors").unlink()
    first = train(work, monkeypatch, 1)
    continued = train(work, monkeypatch, 2)
    assert straight.keys() == continued.keys()
    assert all(torch.equal(straight[name], continued[name]) for name in straight)
    assert any(not torch.equal(first[name], continued[name]) for name in first)


def test_half_the_size_reads_other_latents_and_the_run_goes_on_at_the_full_size(work, monkeypatch):
    train(work, monkeypatch, 1, "--side", "64")
    state = train(work, monkeypatch, 2)
    assert state["count:step"] == 2
    name = dataset.shard_name(0, 0)
    shapes = {
        side: tuple(load_file(work / f"latents-{side}-{name}.safetensors")["latents"].shape)
        for side in (64, 128)
    }
    assert shapes == {64: (8, 16, 8, 8), 128: (8, 16, 16, 16)}


def test_the_decoder_needs_the_unet_and_goes_on_after_a_stop(work, monkeypatch):
    with pytest.raises(SystemExit, match="unet.safetensors is missing"):
        train(work, monkeypatch, 1, part="decoder")
    train(work, monkeypatch, 1)
    straight = train(work, monkeypatch, 2, part="decoder")
    (work / "decoder.safetensors").unlink()
    train(work, monkeypatch, 1, part="decoder")
    continued = train(work, monkeypatch, 2, part="decoder")
    assert all(torch.equal(straight[name], continued[name]) for name in straight)


class Knows(torch.nn.Module):
    """Stands in for the UNet: with words it predicts the velocity that leads to `asked`, without to `plain`."""

    device = torch.device("cpu")

    def __init__(self, pipe, asked, plain):
        super().__init__()
        self.alphas, self.goals, self.levels = pipe.scheduler.alphas_cumprod, torch.cat([plain, asked]), []

    def forward(self, rows, t, states, added_cond_kwargs):
        a = np.interp(t.item(), np.arange(len(self.alphas)), self.alphas)  # between two levels, too
        sigma = torch.tensor(((1 - a) / a) ** 0.5).float()
        self.levels.append(sigma.item())
        x = rows * (sigma**2 + 1).sqrt()
        noise = (x - self.goals) / sigma
        return SimpleNamespace(sample=(noise - sigma * self.goals) / (sigma**2 + 1).sqrt())


@pytest.mark.parametrize("drawn", [0.0, 0.4, 0.999])
def test_what_the_decoder_sees_is_sampled_with_guidance_from_a_noised_picture(drawn, monkeypatch):
    pipe = blank_pipeline()
    asked, plain = torch.full((2, 16, 4, 4), 0.5), torch.full((2, 16, 4, 4), 0.4)
    pipe.unet = Knows(pipe, asked, plain)
    monkeypatch.setattr(torch, "rand", lambda *size, **at: torch.tensor([drawn]))
    got = pretrain_autoencoder.redrawn(pipe, asked, ["a fish", "a car"], torch.Generator().manual_seed(1))
    goal = plain + pretrain_autoencoder.GUIDANCE * (asked - plain)
    levels = pipe.unet.levels
    least, most = pretrain_autoencoder.REDRAWN_FROM
    assert levels[0] == pytest.approx(least + drawn * (most - least), rel=0.01) and len(levels) == 3
    assert levels[0] / levels[1] == pytest.approx(3, rel=0.05)
    assert (got - goal).abs().max() < 5e-3


# Two processes as torchrun starts them, on shards as small as the fixture's.
TWIN = """
import sys
from world import dataset, pretrain, pretrain_unet
for module in (dataset, pretrain, pretrain_unet):
    module.SHARD = 8
pretrain.main()
"""


def test_two_processes_train_as_one(work, monkeypatch):
    alone = train(work, monkeypatch, 2)
    for file in (work / "unet.safetensors", *work.glob("latents-*")):  # of which one process makes them anew
        file.unlink()
    examples = Path(pretrain.__file__).parents[1]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
    ]
    command = [sys.executable, "-c", TWIN, "unet", "--work", str(work), "--steps", "2", "--batch", "4"]
    environment = {**os.environ, "PYTHONPATH": f"{examples}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run([*torchrun, *command], env=environment, check=True, capture_output=True, timeout=120)
    together = load_file(work / "unet.safetensors")
    # What AdamW remembers of the gradients: the same but for bfloat16's rounding, which batches of another size change.
    names = [name for name in alone if name.startswith("exp_avg:")]
    first, second = (torch.cat([state[name].flatten() for name in names]) for state in (alone, together))
    assert together["count:step"] == 2
    assert torch.cosine_similarity(first, second, dim=0) > 0.99


def test_one_process_copies_the_state_to_anneal_and_the_others_wait(tmp_path, monkeypatch):
    (tmp_path / "unet.safetensors").write_bytes(b"state")
    annealed, seen = tmp_path / "unet-annealed.safetensors", []

    @contextmanager
    def first_alone():
        seen.append(annealed.exists())
        yield
        seen.append(annealed.read_bytes())

    monkeypatch.setattr(pretrain.processes, "first_alone", first_alone)
    assert pretrain.state_path(tmp_path, "unet", anneal=1) == annealed
    assert seen == [False, b"state"]


def test_several_processes_must_share_a_step_equally(work, monkeypatch):
    monkeypatch.setattr(pretrain.processes, "count", lambda: 3)
    with pytest.raises(SystemExit) as refused:
        train(work, monkeypatch, 1)
    assert refused.value.code == 2


@pytest.mark.parametrize("side", [64, 128])
def test_the_noise_lies_where_outlines_are_decided_and_some_where_details_are(side):
    alphas = blank_pipeline().scheduler.alphas_cumprod
    t = pretrain_unet.noise_levels(alphas, 4096, side, torch.Generator().manual_seed(0))
    sigma = (1 / alphas - 1).sqrt()[t] * 128 / side
    assert sigma.median() == pytest.approx(2.8, rel=0.02)
    assert ((sigma > 2) & (sigma < 8)).float().mean() == pytest.approx(0.42, abs=0.03)
    assert (sigma < 1).float().mean() == pytest.approx(0.20, abs=0.03)


def test_the_size_is_told_to_the_unet():
    rows = pretrain_unet.time_ids(400, 64, torch.Generator().manual_seed(0))
    plain = (rows == torch.tensor([64.0, 64, 0, 0, 64, 64])).all(1)
    assert 0.65 < plain.float().mean() < 0.85
    assert (rows[:, 4:] == 64).all()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    weight = torch.nn.Linear(1, 1)
    run = Run(tmp_path / "state.safetensors", {"one": weight}, rate=0.1)
    run.loop(lambda step: weight(torch.ones(1, 1)).square().sum(), steps=2)
    good = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="loss is nan before step 4.*holds the last good state"):
        run.loop(lambda step: weight(torch.full((1, 1), np.nan)).sum(), steps=4)
    assert (tmp_path / "state.safetensors").read_bytes() == good


def test_a_gradient_that_is_no_number_stops_the_run_though_its_loss_is_one(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    run = Run(tmp_path / "state.safetensors", {"one": torch.nn.ParameterList([weight])}, rate=0.1)
    run.loop(lambda step: weight.square().sum(), steps=2)
    good = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="gradient is nan before step 3.*holds the last good state"):
        run.loop(lambda step: ((weight * 0).sqrt() * 0).sum(), steps=3)
    assert (tmp_path / "state.safetensors").read_bytes() == good


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--device", "nonsense", "--device nonsense: "),
        ("--device", "xpu:7", "--device xpu:7: "),
        ("--start", "nowhere", "--start nowhere: expected the folder of a finished pipeline"),
    ],
)
def test_a_wrong_device_or_start_is_one_line(work, monkeypatch, capsys, option, value, said):
    with pytest.raises(SystemExit) as refused:
        train(work, monkeypatch, 1, option, value)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_without_a_state_it_starts_from_a_finished_pipeline(work, monkeypatch):
    finished = blank_pipeline(seed=1)
    finished.save_pretrained(work / "finished")
    state = train(work, monkeypatch, 1, "--start", str(work / "finished"), "--rate", "1e-9")
    name = "conv_in.weight"
    assert torch.allclose(state[f"weight:unet.{name}"], finished.unet.state_dict()[name], atol=1e-7)


def test_a_scene_is_worded_in_several_ways_and_the_same_way_again(work):
    first = dataset.worded_shard(work, 0, 0)
    assert first.shape == (8, dataset.WORDINGS, MAX_TOKENS)
    assert all(len(np.unique(wordings, axis=0)) > 1 for wordings in first)
    next(work.glob("wordings-*")).unlink()
    assert np.array_equal(first, dataset.worded_shard(work, 0, 0))


def test_some_of_the_captions_that_it_learns_from_are_empty(work):
    pipe = blank_pipeline()
    examples = pretrain_unet.Examples(pipe, work, 0, 128, {})
    _, ids = examples.draw(2000, torch.Generator().manual_seed(0))
    empty = (ids == pretrain_unet.tokens_of(pipe, [""])).all(1).float().mean()
    assert empty == pytest.approx(pretrain_unet.CAPTION_DROPOUT, abs=0.02)
