"""K-LoRA: always one of the two, by scores that the size of either LoRA does not change, by a schedule over steps."""

import pytest
import torch
from conftest import SIZE, refused
from contract import question
from loras import ask, job, product, random_lora, two_loras

from b4m.backbones.registry import open_backbone
from b4m.core.storage import read_tensors
from b4m.files.lora import load_lora, save_lora
from b4m.files.opening import save_method_file
from b4m.methods.k_lora import KLora, KLoraConfig, Schedule, balance, importance, scores
from b4m.sampling.attach import attach
from b4m.sampling.attach import dials as dials_of
from b4m.sampling.sample import sample
from b4m.training.loop import train


@pytest.fixture(scope="module")
def files(tiny_base, tmp_path_factory) -> dict[str, str]:
    return two_loras(tiny_base, tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def layers(files):
    return [load_lora(path)[0] for path in files.values()]


def made(tiny_base, folder, files, **settings) -> str:
    return str(train(job(KLoraConfig, tiny_base, folder, **files, **settings)).path)


def test_importance_is_of_the_k_largest_entries():
    pair = torch.tensor([[1.0], [-3.0]]), torch.tensor([[1.0, 2.0]])  # dW = [[1, 2], [-3, -6]]
    assert [importance(pair, k) for k in (1, 2, 4, 99)] == [6, 9, 12, 12]


def test_k_is_the_product_of_the_ranks():
    one, two = (random_layers(rank) for rank in (2, 3))
    by_hand = importance(one["a"], 6) / balance(one, two) / importance(two["a"], 6)
    assert scores(one, two)["a"] == pytest.approx(by_hand)


def random_layers(rank: int, size: float = 1.0) -> dict:
    generator = torch.Generator().manual_seed(rank)
    return {
        name: (size * torch.randn(6, rank, generator=generator), torch.randn(rank, 5, generator=generator))
        for name in "abc"
    }


def test_the_size_of_a_lora_changes_no_choice():
    content, style = random_layers(2), random_layers(3)
    expected = scores(content, style)
    for size in (0.01, 50.0):
        assert scores(random_layers(2, size), style) == pytest.approx(expected, rel=1e-5)


def test_gamma_leaves_outliers_out():
    content, style = ({name: (torch.ones(1, 1), torch.ones(1, 1)) for name in "abcdefgh"} for _ in range(2))
    content["a"] = (torch.tensor([[1000.0]]), torch.ones(1, 1))
    assert balance(content, style) == 1


def test_the_schedule():
    linear, wrapped = Schedule(1.5, 0.5, wrapped=False), Schedule(1.5, 1.275, wrapped=True)
    assert (linear(0.0), linear(0.5)) == (0.5, 1.25)
    assert (
        wrapped(0.0) == 1.275
        and wrapped(0.14) == pytest.approx(1.485)
        and wrapped(0.16) == pytest.approx(0.015)
    )


def answer_with(tiny_base, asked, timesteps, **lora):
    backbone = open_backbone(tiny_base)
    attach(backbone, **lora)
    return ask(backbone, asked, timesteps)


def test_each_sample_gets_one_lora_whole_and_late_steps_the_style(tiny_base, files, folders, tmp_path):
    """One layer, so that all of the answer is one choice."""
    name = next(name for name in load_lora(files["content_file"])[0] if "mid_block" in name)
    ones = {}
    for kind, path in files.items():
        ones[kind] = str(tmp_path / f"{kind}.safetensors")
        save_lora(ones[kind], {name: load_lora(path)[0][name]}, {})
    asked = question(tiny_base, folders["content"])
    linear = dict(schedule="linear", alpha=2.0, beta=0.0)  # the score is about 1: the style from tau = 0.5 on
    path = made(tiny_base, tmp_path / "k", ones, **linear)
    early, late = torch.tensor([998, 998]), torch.tensor([1, 1])
    for timesteps, kind in ((early, "content_file"), (late, "style_file")):
        got = answer_with(tiny_base, asked, timesteps, lora_file=path)
        expected = answer_with(tiny_base, asked, timesteps, lora_file=ones[kind])
        other = answer_with(
            tiny_base,
            asked,
            timesteps,
            lora_file=ones["style_file" if kind == "content_file" else "content_file"],
        )
        assert (got - expected).abs().max() < 1e-5 < (got - other).abs().max() / 10
    mixed = answer_with(tiny_base, asked, torch.tensor([998, 1]), lora_file=path)
    assert torch.allclose(mixed[:1], answer_with(tiny_base, asked, early, lora_file=path)[:1], atol=1e-6)
    assert torch.allclose(mixed[1:], answer_with(tiny_base, asked, late, lora_file=path)[1:], atol=1e-6)


def test_a_heavy_style_takes_every_layer_and_a_tie_is_the_styles(tiny_base, files, folders, tmp_path):
    asked = question(tiny_base, folders["content"])
    style = answer_with(tiny_base, asked, None, lora_file=files["style_file"])
    heavy = made(tiny_base, tmp_path / "heavy", files, schedule="linear", beta=900.0)
    assert (answer_with(tiny_base, asked, None, lora_file=heavy) - style).abs().max() < 1e-4
    same = {"content_file": files["style_file"], "style_file": files["style_file"]}
    tensors, _ = read_tensors(made(tiny_base, tmp_path / "tie", same))
    assert {float(value) for name, value in tensors.items() if name.startswith("score/")} == {1.0}
    one = made(
        tiny_base,
        tmp_path / "one",
        files | {"content_file": files["style_file"]},
        schedule="linear",
        beta=1.0,
    )
    backbone = open_backbone(tiny_base)
    attach(backbone, lora_file=one)
    backbone.attached.arguments(0.0, 1.0)  # nothing is left of what would be the content's
    assert (
        ask(backbone, asked, torch.tensor([999, 999]))
        - answer_with(tiny_base, asked, torch.tensor([999, 999]), lora_file=files["style_file"])
    ).abs().max() < 1e-4


def test_its_dials_are_two_and_images_follow_the_choice(tiny_base, files, tmp_path):
    backbone = open_backbone(tiny_base)
    prompts, drawn = ["a photo of snq bear"], {}
    bare = sample(backbone, prompts, [1], steps=4, size=SIZE)[0].tobytes()
    attach(backbone, lora_file=made(tiny_base, tmp_path / "k", files))
    for dials in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        image = sample(
            backbone, prompts, [1], steps=4, size=SIZE, content_strength=dials[0], style_strength=dials[1]
        )
        drawn[dials] = image[0].tobytes()
    refused(lambda: dials_of(backbone, (1.0, 0.5), 1.0), "one strength for a whole batch")
    assert len({*drawn.values()}) == 4 and drawn[0.0, 0.0] == bare
    attach(backbone)
    assert sample(backbone, prompts, [1], steps=4, size=SIZE)[0].tobytes() == bare
    assert not backbone.denoiser._forward_pre_hooks


def test_what_cannot_be_chosen_from_is_refused(tiny_base, files, layers, trained, tmp_path):
    def task(**changes):
        return KLora().task(job(KLoraConfig, tiny_base, tmp_path, **{**files, **changes}))

    refused(lambda: task(style_file=trained["style_file"]), trained["style_file"])
    few = str(tmp_path / "few.safetensors")
    save_lora(few, dict(list(layers[0].items())[:3]), {})
    refused(lambda: task(content_file=few), "only this of the two")
    backbone = open_backbone(tiny_base)
    odd = str(tmp_path / "odd.safetensors")
    save_method_file(odd, "k-lora", {"score/x": torch.ones(())}, backbone.denoiser, {})
    refused(lambda: attach(backbone, lora_file=odd), odd, "k-lora")
    assert product(random_lora(tiny_base, 0)[next(iter(layers[0]))]).any()
