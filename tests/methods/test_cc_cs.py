"""CC+CS: it goes on from the content's LoRA, sees the style alone, and logs how much of the content is left."""

import json

import pytest
import torch
from conftest import refused
from contract import question
from loras import ask, job, random_lora

from b4m.backbones.registry import open_backbone
from b4m.files.lora import load_lora, save_lora
from b4m.methods.cc_cs import StyleAfterContent, StyleOnTopConfig
from b4m.sampling.attach import attach
from b4m.training.loop import train


@pytest.fixture(scope="module")
def content_file(tiny_base, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("lora") / "content.safetensors")
    save_lora(path, random_lora(tiny_base, 0, rank=3), {})
    return path


@pytest.fixture
def config(tiny_base, folders, content_file, tmp_path):
    def make(name: str = "top", **changes):
        given = {"content_file": content_file, "style_dir": folders["style"], **changes}
        return job(StyleOnTopConfig, tiny_base, tmp_path / name, **given)

    return make


@pytest.mark.parametrize("square", [True, False])
def test_it_starts_as_the_content_and_sees_the_style_alone(
    config, content_file, tiny_base, folders, tmp_path, square
):
    if square:
        layers = {
            name: pair
            for name, pair in load_lora(content_file)[0].items()
            if len(pair[0]) == pair[1].shape[1]
        }
        content_file = str(tmp_path / "square.safetensors")
        save_lora(content_file, layers, {})
    task = StyleAfterContent().task(config(content_file=content_file, content_dir=folders["content"]))
    learner, other = task.start(open_backbone(tiny_base)), open_backbone(tiny_base)
    attach(other, lora_file=content_file)
    asked, bare = question(tiny_base, folders["content"]), open_backbone(tiny_base)
    answers = [ask(backbone, asked) for backbone in (learner.backbone, other, bare)]
    assert (answers[0] - answers[1]).abs().max() < 1e-4 < (answers[0] - answers[2]).abs().max() / 10
    for name, (up, down) in learner.adapter.lora().items():
        assert torch.equal(up, load_lora(content_file)[0][name][0]) and torch.equal(
            down, load_lora(content_file)[0][name][1]
        )
    assert {source.kind for source in task.inputs.sources} == {"style"}
    assert {image.path.parent.name for image in task.inputs.images} == {"style"}


def test_what_is_forgotten_is_logged_and_changes_nothing(config, folders, tmp_path):
    watched = train(config("watched", content_dir=folders["content"], watch_every=2, steps=4))
    unwatched = train(config("unwatched", steps=4))
    assert watched.path.read_bytes() == unwatched.path.read_bytes()
    log = [json.loads(line) for line in (watched.path.parent / "log.jsonl").read_text().splitlines()]
    assert ["content_loss" in line for line in log] == [False, True, False, True]
    assert log[1]["content_loss"] != log[3]["content_loss"] > 0
    assert "content_loss" not in (unwatched.path.parent / "log.jsonl").read_text()


def test_the_file_is_one_lora_with_both_words(config):
    result = train(config())
    layers, metadata = load_lora(result.path)
    assert {len(down) for _, down in layers.values()} == {3} and metadata["b4m.made_by"] == "cc+cs"
    assert (metadata["b4m.content_trigger"], metadata["b4m.style_trigger"]) == ("snq", "w@z")


def test_what_it_cannot_go_on_from_is_refused_and_leaves_nothing_behind(
    config, trained, tiny_base, content_file, tmp_path
):
    refused(
        lambda: StyleAfterContent().task(config(content_file=trained["content_file"])),
        trained["content_file"],
    )
    few = str(tmp_path / "few.safetensors")
    save_lora(few, dict(list(load_lora(content_file)[0].items())[:3]), {})
    backbone = open_backbone(tiny_base)
    task = StyleAfterContent().task(config(content_file=few))
    refused(lambda: task.start(backbone), few)
    attach(backbone, lora_file=content_file)  # the stock processors are back
