"""ProSpect: which of ten vectors a timestep reads, that only it learns then, and what a file makes of a prompt."""

import pytest
import torch
from conftest import SIZE, refused
from loras import batch, job

from b4m.backbones.registry import open_backbone
from b4m.core.storage import read_tensors
from b4m.files.opening import save_method_file
from b4m.methods.prospect import (
    ProspectContentConfig,
    ProspectMethod,
    ProspectStyleConfig,
    index,
    spoken,
    staged,
)
from b4m.methods.textual_inversion import RESULT, InversionContentConfig
from b4m.sampling.attach import attach
from b4m.sampling.sample import sample
from b4m.training.loop import train

JOBS = {"content": ProspectContentConfig, "style": ProspectStyleConfig}
PROMPT = "a snq bear in w@z chalk style"


def test_the_index_of_a_timestep():
    assert [index(t) for t in (0, 99, 100, 899, 900, 999)] == [0, 0, 1, 8, 9, 9]
    assert [index(t, 100) for t in (0, 9.9, 10, 99)] == [0, 0, 1, 9]


def test_what_is_said_in_a_stage():
    assert staged("snq")[9] == "snq-9"
    assert spoken(PROMPT, "snq", 7, (3, 10)) == "a snq-7 bear in w@z chalk style"  # index 7 is stage 3
    assert spoken(PROMPT, "snq", 8, (3, 10)) == "a bear in w@z chalk style"
    assert spoken(PROMPT, "w@z", 0, (6, 10)) == "a snq bear in w@z-0 chalk style"
    assert spoken("a snqx, snq.", "snq", 0, (1, 10)) == "a snqx, snq-0."


@pytest.fixture
def config(tiny_base, folders, tmp_path):
    def make(kind: str, **changes):
        given = {f"{kind}_dir": folders[kind], f"{kind}_class": "bear", **changes}
        return job(JOBS[kind], tiny_base, tmp_path / f"{kind}-{len(str(changes))}", **given)

    return make


@pytest.fixture(scope="module")
def files(tiny_base, folders, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("stages")
    return {
        f"{kind}_file": str(
            train(job(cls, tiny_base, root / kind, **{f"{kind}_dir": folders[kind]}, steps=4)).path
        )
        for kind, cls in JOBS.items()
    }


def test_only_the_vector_of_the_timestep_gets_a_gradient(config, tiny_base):
    task = ProspectMethod().task(config("content"))
    learner = task.start(open_backbone(tiny_base))
    cache = learner.encode(torch.device("cpu"))
    learner.loss(batch(cache, [0, 1], [950, 120]))[0].backward()
    for rows in learner.named.values():
        assert rows.grad.any(dim=1).tolist() == [number in (1, 9) for number in range(10)]


def test_ten_equal_vectors_are_textual_inversion(config, tiny_base, folders, tmp_path):
    """The same images to the bit, since both put the same vectors in the same places."""
    inverted = train(
        job(InversionContentConfig, tiny_base, tmp_path / "ti", content_dir=folders["content"])
    ).path
    vectors, _ = read_tensors(inverted)
    tensors = {table: rows.repeat(10, 1) for table, rows in vectors.items()}
    backbone, drawn = open_backbone(tiny_base), []
    facts = {"content_trigger": "snq", "first_stage": "1", "last_stage": "10"}
    save_method_file(
        tmp_path / "ten.safetensors", "prospect", tensors, backbone.denoiser, facts, role="content"
    )
    for path in (inverted, tmp_path / "ten.safetensors"):
        attach(backbone, content_file=str(path))
        drawn.append(sample(backbone, [PROMPT], [1], steps=5, size=SIZE, style_strength=1)[0].tobytes())
    attach(backbone)
    bare = sample(backbone, [PROMPT], [1], steps=5, size=SIZE)[0].tobytes()
    assert drawn[0] == drawn[1] != bare and inverted.name == RESULT


def test_each_step_is_told_its_own_stage(files, tiny_base, monkeypatch):
    backbone, asked = open_backbone(tiny_base), []
    attach(backbone, **files)
    read = backbone.encode_prompts
    monkeypatch.setattr(backbone, "encode_prompts", lambda prompts: asked.append(prompts[0]) or read(prompts))
    sample(backbone, [PROMPT], [1], steps=10, size=SIZE)
    expected = ["a bear in chalk style"]  # stages 1 and 2: neither word
    expected += [f"a snq-{number} bear in chalk style" for number in (7, 6, 5)]
    expected += [f"a snq-{number} bear in w@z-{number} chalk style" for number in (4, 3, 2, 1, 0)]
    assert [text for text in asked if text in expected] == expected and {*asked} == {*expected}


def test_a_vector_acts_in_its_stage_alone(files, tiny_base, tmp_path):
    tensors, _ = read_tensors(files["content_file"])
    drawn, backbone = [], open_backbone(tiny_base)
    facts = {"content_trigger": "snq", "first_stage": "1", "last_stage": "10"}
    for number, change in enumerate((0.0, 1.0)):
        changed = {table: rows.clone() for table, rows in tensors.items()}
        for rows in changed.values():
            rows[9] += change
        path = tmp_path / f"{number}.safetensors"
        save_method_file(path, "prospect", changed, backbone.denoiser, facts, role="content")
        attach(backbone, content_file=str(path))
        backbone.attached.arguments(1.0, 1.0)
        told = {t: backbone.attached.prompt_at(PROMPT, t) for t in (950, 899, 20)}
        drawn.append({t: backbone.encode_prompts([text])["hidden"] for t, text in told.items()})
    assert [torch.equal(drawn[0][t], drawn[1][t]) for t in (950, 899, 20)] == [False, True, True]


def test_dials_are_on_and_off(files, tiny_base):
    backbone, drawn = open_backbone(tiny_base), {}
    attach(backbone, **files)
    for dials in ((1, 1), (1, 0), (0, 1), (0, 0)):
        image = sample(
            backbone, [PROMPT], [1], steps=5, size=SIZE, content_strength=dials[0], style_strength=dials[1]
        )
        drawn[dials] = image[0].tobytes()
    attach(backbone)
    assert len({*drawn.values()}) == 4
    assert drawn[0, 0] == sample(backbone, [PROMPT], [1], steps=5, size=SIZE)[0].tobytes()
    assert not backbone.denoiser._forward_pre_hooks


def test_what_does_not_go_is_refused(config, files, tiny_base, tmp_path):
    refused(lambda: config("content", first_stage=5, last_stage=4), "--first-stage 5", "--last-stage 4")
    backbone = open_backbone(tiny_base)
    tensors, metadata = read_tensors(files["style_file"])
    assert metadata["b4m.first_stage"] == "6" and metadata["b4m.trained_parameters"] == str(10 * (24 + 24))
    odd = tmp_path / "odd.safetensors"
    word, short = {"style_trigger": "w@z"}, {"clip_g": tensors["clip_g"][:4]}
    for change, facts in (({}, word), (short, word), ({}, {})):
        save_method_file(odd, "prospect", {**tensors, **change}, backbone.denoiser, facts, role="style")
        refused(lambda: attach(backbone, style_file=str(odd)), odd)
