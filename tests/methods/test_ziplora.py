"""ZipLoRA: m = 1 is the sum, m = (1, 0) costs the content nothing, only mergers learn, the file is what was learned."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import refused
from contract import question
from loras import ask, batch, job, product, two_loras

from b4m.backbones.registry import open_backbone
from b4m.config.resolve import resolve
from b4m.files.lora import load_lora, save_lora
from b4m.methods.low_rank import DirectSumConfig
from b4m.methods.protocol import Batch
from b4m.methods.ziplora import ZipLora, ZipLoraConfig, Zipped
from b4m.sampling.attach import attach
from b4m.training.loop import train


@pytest.fixture(scope="module")
def files(tiny_base, tmp_path_factory) -> dict[str, str]:
    return two_loras(tiny_base, tmp_path_factory.mktemp("loras"))


@pytest.fixture
def config(tiny_base, folders, files, tmp_path):
    def make(**changes):
        images = {"content_dir": folders["content"], "style_dir": folders["style"]}
        return job(ZipLoraConfig, tiny_base, tmp_path / "zip", **{**images, **files, **changes})

    return make


def batch_of(learner, task) -> Batch:
    return batch(learner.encode(torch.device("cpu")), task.inputs.picked(0, 0), [100, 800])


def begun(config, tiny_base):
    task = ZipLora().task(config)
    return task, task.start(open_backbone(tiny_base))


@pytest.mark.parametrize("axis", ["in", "out"])
def test_it_starts_as_the_sum(config, files, tiny_base, folders, tmp_path, axis):
    asked = question(tiny_base, folders["content"])
    _, learner = begun(config(axis=axis), tiny_base)
    summed = train(job(DirectSumConfig, tiny_base, tmp_path / "sum", **files)).path
    other = open_backbone(tiny_base)
    attach(other, lora_file=str(summed))
    answers = [ask(backbone, asked) for backbone in (learner.backbone, other)]
    bare = ask(open_backbone(tiny_base), asked)
    assert (answers[0] - answers[1]).abs().max() < 1e-4 < (answers[0] - bare).abs().max() / 10


def test_a_concept_whose_lora_is_all_there_is_costs_nothing(config, tiny_base):
    task, learner = begun(config(overlap_weight=0.0), tiny_base)
    both = batch_of(learner, task)
    for kind, other in (("content", "style"), ("style", "content")):
        with torch.no_grad():
            for name, merger in learner.named.items():
                merger.fill_(float(name.startswith(kind)))
        _, losses = learner.loss(both)
        cost = dict(zip(("content", "style"), losses.tolist(), strict=True))
        assert cost[kind] < 1e-10 < cost[other] / 1e3


def test_gradients_reach_mergers_alone_and_parts_add_up(config, tiny_base):
    task, learner = begun(config(overlap_weight=0.5), tiny_base)
    both = batch_of(learner, task)
    whole, _ = learner.loss(both)
    whole.backward()
    assert all(merger.grad is not None for merger in learner.parameters)
    assert not [
        p
        for p in learner.backbone.denoiser.parameters()
        if p.grad is not None and p not in {*learner.parameters}
    ]
    total = 0.0
    for first in range(2):
        rows = slice(first, first + 1)
        conditions = {name: value[rows] for name, value in both.conditions.items()}
        part = replace(
            both,
            **{
                name: getattr(both, name)[rows]
                for name in ("images", "latents", "noise", "timesteps", "weights")
            },
            conditions=conditions,
            places=[first],
        )
        total += float(learner.loss(part)[0].detach())
    assert total == pytest.approx(float(whole.detach()), rel=1e-4)


def test_the_overlap_is_of_the_mergers_alone(config, tiny_base):
    _, learner = begun(config(), tiny_base)
    layers = len(learner.zip.modules)
    assert learner.zip.overlap().item() == pytest.approx(layers)  # 1 a layer, whatever the LoRAs' size
    with torch.no_grad():
        for name, merger in learner.named.items():
            merger.copy_(torch.arange(len(merger)) % 2 == (1 if name.startswith("style") else 0))
    assert learner.zip.overlap().item() == 0, "no column of both"


@pytest.mark.parametrize("axis", ["in", "out"])
def test_a_merger_scales_columns_or_rows(axis):
    generator = torch.Generator().manual_seed(1)
    pairs = {
        kind: (torch.randn(5, 2, generator=generator), torch.randn(2, 3, generator=generator))
        for kind in ("content", "style")
    }
    zipped = Zipped(pairs, axis)
    mergers = {kind: torch.rand(3 if axis == "in" else 5, generator=generator) for kind in pairs}
    dW = torch.zeros(5, 3)
    for kind, merger in mergers.items():
        zipped.mergers[kind].data.copy_(merger)
        dW += product(pairs[kind]) * (merger if axis == "in" else merger[:, None])
    x = torch.randn(2, 4, 3, generator=generator)
    assert torch.allclose(zipped(x), x @ dW.T, atol=1e-5)
    assert torch.allclose(sum(product(zipped.pair(kind)) for kind in pairs), dW, atol=1e-5)
    zipped.alone = 1  # the teachers, which no merger changes
    alone = [x[:1] @ product(pairs["content"]).T, x[1:] @ product(pairs["style"]).T]
    assert torch.allclose(zipped(x), torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("axis", ["in", "out"])
def test_the_file_is_what_was_learned_and_the_log_says_how_far(config, tiny_base, axis):
    result = train(config(axis=axis, steps=3, lr=0.05))
    layers, metadata = load_lora(result.path)
    assert {len(down) for _, down in layers.values()} == {4}  # of 2 + 2
    count = sum(sum(pair[0].shape[:1] if axis == "out" else pair[1].shape[1:]) for pair in layers.values())
    assert metadata["b4m.trained_parameters"] == str(2 * count) and metadata["b4m.made_by"] == "ziplora"
    log = [json.loads(line) for line in (result.path.parent / "log.jsonl").read_text().splitlines()]
    moved = [line["merger_moved"] for line in log]
    assert 0 < moved[0] < moved[2] <= log[2]["merger_moved_most"] < 0.2
    assert {"merger_content", "merger_style", "overlap"} <= log[0].keys()


def test_at_the_published_rate_mergers_hardly_move(config, files):
    asked = {"content_dir": "x", "style_dir": "x", **files}
    presets = [resolve(ZipLoraConfig, preset, **asked) for preset in ("sdxl", "embedded")]
    assert [(preset.lr, preset.steps) for preset in presets] == [(5e-5, 100)] * 2
    result = train(config(steps=3, lr=presets[0].lr))
    line = (result.path.parent / "log.jsonl").read_text().splitlines()[-1]
    assert 0 < json.loads(line)["merger_moved_most"] <= 3.5 * 5e-5


def test_a_layer_that_one_lacks_is_the_others(config, files, tiny_base, tmp_path):
    content, _ = load_lora(files["content_file"])
    few = str(tmp_path / "few.safetensors")
    save_lora(few, dict(list(content.items())[:3]), {})
    _, learner = begun(config(content_file=few), tiny_base)
    assert sum(name.startswith("content/") for name in learner.named) == 3
    assert learner.zip.overlap().item() == pytest.approx(3)
    layers = learner.zip.layers()
    style, _ = load_lora(files["style_file"])
    lone = next(name for name in layers if name not in list(content)[:3])
    assert torch.equal(product(layers[lone]), product(style[lone]))


def test_another_lora_is_another_run_and_a_misfit_is_refused(config, files, tiny_base, trained, tmp_path):
    task, _ = begun(config(), tiny_base)
    swapped = ZipLora().task(config(content_file=files["style_file"]))
    assert task.facts() != swapped.facts()
    refused(
        lambda: ZipLora().task(config(style_file=trained["style_file"])), trained["style_file"], "lora:style"
    )
    wide = str(tmp_path / "wide.safetensors")
    save_lora(wide, {"mid_block.attentions.0.proj_in": (torch.ones(3, 1), torch.ones(1, 3))}, {})
    refused(lambda: begun(config(content_file=wide), tiny_base), wide, tiny_base)
