"""StyleAligned: what AdaIN does, that off is off, and that images follow the reference and it follows nobody."""

import pytest
import torch
from conftest import SIZE, refused
from contract import question
from loras import ask, job, two_loras

from b4m.backbones.registry import open_backbone
from b4m.core.storage import read_tensors
from b4m.files.opening import save_method_file
from b4m.methods.style_aligned import Shared, StyleAligned, StyleAlignedConfig, adain, spread_over
from b4m.sampling.attach import attach
from b4m.sampling.sample import sample
from b4m.training.loop import train

PROMPT = "a snq bear in w@z chalk style"


@pytest.fixture(scope="module")
def content_file(tiny_base, tmp_path_factory) -> str:
    return two_loras(tiny_base, tmp_path_factory.mktemp("lora"))["content_file"]


def made(tiny_base, folder, content_file, style_dir, **settings) -> str:
    given = {"content_file": content_file, "style_dir": style_dir, "inversion_steps": 5, **settings}
    return str(train(job(StyleAlignedConfig, tiny_base, folder, **given)).path)


@pytest.fixture(scope="module")
def file(tiny_base, folders, content_file, tmp_path_factory) -> str:
    return made(tiny_base, tmp_path_factory.mktemp("aligned"), content_file, folders["style"])


def test_adain_takes_mean_and_spread_and_its_own_are_the_identity():
    one, two = torch.randn(2, 3, 50, 4, generator=torch.Generator().manual_seed(0))
    two = 5 * two - 2
    assert torch.allclose(adain(one, one), one, atol=1e-5)
    found = adain(one, two)
    assert torch.allclose(found.mean(1), two.mean(1), atol=1e-4)
    assert torch.allclose(found.std(1), two.std(1), rtol=1e-3)
    assert spread_over(torch.tensor([1, 2]), 6).tolist() == [1, 1, 1, 2, 2, 2]


def test_queries_and_keys_are_normalised_and_the_reference_stands_beside_keys_and_values():
    one, two = torch.randn(2, 2, 7, 4, generator=torch.Generator().manual_seed(0))
    layers = {name: torch.nn.Linear(4, 4) for name in ("to_q", "to_k", "to_v")}
    model = torch.nn.ModuleDict({"attn1": torch.nn.ModuleDict(layers)})
    plain = {name: (layer(one), layer(two)) for name, layer in layers.items()}
    shared = Shared(model, copies=2)
    shared.mode = "remember"
    for layer in layers.values():
        layer(two)
    shared.mode = "show"
    found = {name: layer(one) for name, layer in layers.items()}
    alike = {name: adain(*outputs) for name, outputs in plain.items()}
    assert torch.allclose(found["to_q"], alike["to_q"])
    assert torch.allclose(found["to_k"], torch.cat([alike["to_k"], *[plain["to_k"][1]] * 2], dim=1))
    assert torch.allclose(found["to_v"], torch.cat([plain["to_v"][0], *[plain["to_v"][1]] * 2], dim=1))
    shared.remove()
    assert torch.equal(layers["to_q"](one), plain["to_q"][0])


def test_the_file_holds_the_inverted_first_image_and_the_content(file, content_file):
    tensors, metadata = read_tensors(file)
    assert tensors["noisy"].shape == (6, 4, 8, 8) and tensors["timesteps"].tolist()[::5] == [0, 999]
    assert (
        metadata["b4m.reference_prompt"] == "a picture in art style"
        and metadata["b4m.content_trigger"] == "snq"
    )
    content, _ = read_tensors(content_file)
    assert sum(name.startswith("content/") for name in tensors) == len(content)


def test_off_is_off_and_the_content_has_a_dial_of_its_own(file, content_file, tiny_base, folders):
    asked, backbone = question(tiny_base, folders["content"]), open_backbone(tiny_base)
    bare = ask(backbone, asked)
    attach(backbone, lora_file=content_file)
    lora = ask(backbone, asked)
    attach(backbone, lora_file=file)
    answers = {}
    for dials in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        backbone.attached.arguments(*dials)
        answers[dials] = ask(backbone, asked)
    assert torch.equal(answers[0.0, 0.0], bare)
    assert (answers[1.0, 0.0] - lora).abs().max() < 1e-4 * lora.abs().max() + 1e-4
    assert (answers[0.0, 1.0] - bare).abs().max() > 1e-3 and (answers[1.0, 1.0] - lora).abs().max() > 1e-3
    refused(lambda: backbone.attached.arguments(1.0, 0.5), "style strength 0.5")
    attach(backbone)
    assert torch.equal(ask(backbone, asked), bare)
    assert not backbone.denoiser._forward_pre_hooks and not backbone.denoiser._forward_hooks


def test_the_reference_is_shown_to_the_base_model_alone(file, tiny_base, folders, monkeypatch):
    """What the content's LoRA makes of it is nobody's business."""
    backbone, said = open_backbone(tiny_base), []
    attach(backbone, lora_file=file)
    predict = backbone.predict
    monkeypatch.setattr(backbone, "predict", lambda *given: said.append(predict(*given)) or said[-1])
    for content in (0.0, 1.0):
        backbone.attached.arguments(content, 1.0)
        ask(backbone, question(tiny_base, folders["content"]))
    shown, answered = said[::2], said[1::2]  # the reference is looked at within each call
    assert torch.equal(*shown) and not torch.equal(*answered)


def test_images_follow_the_reference_and_not_each_other(file, tiny_base, folders, content_file, tmp_path):
    backbone, drawn = open_backbone(tiny_base), []
    other = made(tiny_base, tmp_path, content_file, folders["content"])
    for path in (file, other):
        attach(backbone, lora_file=path)
        images = sample(backbone, [PROMPT, "a house"], [1, 2], steps=3, size=SIZE, guidance=3.0)
        drawn.append([image.tobytes() for image in images])
        alone = sample(backbone, [PROMPT], [1], steps=3, size=SIZE, guidance=3.0)[0]
        assert max(abs(a - b) for a, b in zip(alone.tobytes(), images[0].tobytes(), strict=True)) <= 1
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


def test_copies_count(tiny_base, folders, content_file, file, tmp_path):
    asked, answers = question(tiny_base, folders["content"]), []
    for path in (file, made(tiny_base, tmp_path, content_file, folders["style"], copies=1)):
        backbone = open_backbone(tiny_base)
        attach(backbone, lora_file=path)
        answers.append(ask(backbone, asked))
    assert not torch.allclose(*answers, atol=1e-5)


def test_the_two_halves_of_guidance_see_their_own_reference(file, tiny_base, folders):
    """Without the reference's prompt in the first half, with it in the second."""
    backbone = open_backbone(tiny_base)
    attach(backbone, lora_file=file)
    noisy, _, conditions = question(tiny_base, folders["content"])
    double = {name: value[:1].repeat(2, *[1] * (value.dim() - 1)) for name, value in conditions.items()}
    halves = {}
    for scale in (5.0, 1.0):
        backbone.pipe._guidance_scale = scale
        halves[scale] = ask(backbone, (noisy[:1].repeat(2, 1, 1, 1), torch.tensor(500), double))
    assert torch.allclose(halves[1.0][0], halves[1.0][1], atol=1e-5)
    assert not torch.allclose(halves[5.0][0], halves[5.0][1], atol=1e-5)
    assert torch.allclose(halves[5.0][1], halves[1.0][1], atol=1e-5)


def test_what_does_not_go_is_refused(tiny_base, folders, trained, file, content_file, tmp_path):
    def task(**changes):
        given = {"content_file": content_file, "style_dir": folders["style"], **changes}
        return StyleAligned().task(job(StyleAlignedConfig, tiny_base, tmp_path, **given))

    refused(lambda: task(content_file=trained["style_file"]), trained["style_file"], "lora:content")
    backbone, odd = open_backbone(tiny_base), str(tmp_path / "odd.safetensors")
    tensors, _ = read_tensors(file)
    for left_out in ("noisy", "size"):
        kept = {name: tensor for name, tensor in tensors.items() if name != left_out}
        save_method_file(odd, "style-aligned", kept, backbone.denoiser, {"copies": "1"})
        refused(lambda: attach(backbone, lora_file=odd), odd, "style-aligned")
