"""CC+ES: the same words draw the source, other words the source edited, and the model stays as it is."""

from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import SIZE, refused
from contract import question
from loras import ask, job, two_loras

from b4m.backbones.registry import open_backbone
from b4m.core.storage import read_tensors
from b4m.files.opening import save_method_file
from b4m.methods.cc_es import EditConfig, EditedContent
from b4m.sampling.attach import attach
from b4m.sampling.sample import sample
from b4m.training.loop import train

PROMPT = "a photo of snq bear in w@z chalk style"
DRAW = dict(steps=2, guidance=3.0, size=SIZE)


@pytest.fixture(scope="module")
def content_file(tiny_base, tmp_path_factory) -> str:
    return two_loras(tiny_base, tmp_path_factory.mktemp("lora"))["content_file"]


@pytest.fixture(scope="module")
def config(tiny_base, folders, content_file, tmp_path_factory):
    def make(**changes):
        folder = tmp_path_factory.mktemp("edit")
        given = {"content_file": content_file, "content_dir": folders["content"], "content_class": "bear"}
        return job(EditConfig, tiny_base, folder, **given, inversion_steps=2, edit_guidance=3.0, **changes)

    return make


@pytest.fixture(scope="module")
def file(config) -> str:
    return str(train(config()).path)


@pytest.fixture
def backbone(tiny_base, file):
    made = open_backbone(tiny_base)
    attach(made, lora_file=file)
    return made


def draw(backbone, prompts=(PROMPT,), seeds=(1,), **dials) -> list[np.ndarray]:
    return [np.asarray(image, dtype=int) for image in sample(backbone, prompts, seeds, **DRAW, **dials)]


def test_the_file_holds_noise_and_an_embedding_for_each_step(file):
    tensors, metadata = read_tensors(file)
    assert tensors["noise"].shape == (1, 4, 8, 8) and tensors["nulls"].shape[:1] == (2,)
    assert (tensors["losses"][:, 1] <= tensors["losses"][:, 0]).all()
    assert metadata["b4m.source_prompt"] == "a photo of snq bear"


def test_the_same_words_are_the_source_and_seeds_change_nothing(backbone):
    source = draw(backbone, style_strength=0)[0]
    assert (draw(backbone, ["a photo of snq bear"])[0] == source).all()
    edited = draw(backbone, [PROMPT, PROMPT], [1, 2])
    assert (edited[0] == edited[1]).all() and np.abs(edited[0] - source).max() > 1
    assert (
        draw(backbone, ["a photo of snq bear in chalk style"])[0] == edited[0]
    ).all()  # w@z is not for the model


def test_each_share_of_the_sources_attention_acts_on_the_target_alone(backbone):
    attached, found = backbone.attached, []
    for shares in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        attached.cross_share, attached.self_share = shares
        found.append(attached._edit(PROMPT))
    assert not any(torch.equal(one, other) for one, other in combinations(found, 2))
    attached.edits, sources = False, []
    for share in (0.0, 1.0):  # of a target that is the source, attention is the source's anyway
        attached.cross_share = attached.self_share = share
        sources.append(attached._edit(PROMPT))
    assert torch.allclose(*sources, rtol=1e-3, atol=1e-3)


def test_between_edits_it_is_the_lora_and_off_the_base(backbone, content_file, tiny_base, folders):
    asked, other = question(tiny_base, folders["content"]), open_backbone(tiny_base)
    bare = ask(other, asked)
    attach(other, lora_file=content_file)
    assert (ask(backbone, asked) - ask(other, asked)).abs().max() < 1e-4
    draw(backbone)
    assert (ask(backbone, asked) - ask(other, asked)).abs().max() < 1e-4
    attach(backbone)
    assert torch.equal(ask(backbone, asked), bare) and not backbone.denoiser._forward_hooks


def test_what_does_not_go_is_refused(backbone, config, trained, tiny_base, file, tmp_path):
    for change in ({"steps": 5}, {"guidance": 2.0}, {"size": 2 * SIZE}):
        refused(
            lambda change=change: sample(backbone, [PROMPT], [1], **{**DRAW, **change}), file, "--steps 2"
        )
    refused(lambda: draw(backbone, style_strength=0.5), "style strength 0.5")
    odd = str(tmp_path / "odd.safetensors")
    save_method_file(odd, "cc+es", read_tensors(file)[0], backbone.denoiser, {})
    refused(lambda: attach(open_backbone(tiny_base), lora_file=odd), odd, "cc+es")
    wrong = job(EditConfig, tiny_base, tmp_path, content_file=trained["content_file"], content_dir="x")
    refused(lambda: EditedContent().task(wrong), trained["content_file"], "lora:content")
