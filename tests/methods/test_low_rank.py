"""Ordinary LoRAs trained here, and their sum: what the file says, what the sum is, what is refused."""

import pytest
import torch
from conftest import SIZE, refused

from b4m.backbones.registry import open_backbone
from b4m.config.resolve import resolve
from b4m.files.lora import load_lora, save_lora
from b4m.methods.low_rank import DirectSumConfig, LoraContentConfig, LoraStyleConfig, side_by_side
from b4m.methods.registry import job_named, method
from b4m.training.loop import train


@pytest.fixture(scope="module")
def loras(tiny_base, folders, tmp_path_factory) -> dict[str, str]:
    """A content's and a style's, trained for two steps."""
    root, found = tmp_path_factory.mktemp("loras"), {}
    for kind, job in (("content", LoraContentConfig), ("style", LoraStyleConfig)):
        common = {"base_model": tiny_base, "resolution": SIZE, "rank": 4, "steps": 2, "lr": 0.05}
        config = resolve(
            job, "embedded", output_dir=str(root / kind), **{f"{kind}_dir": folders[kind]}, **common
        )
        found[f"{kind}_file"] = str(train(config).path)
    return found


def summed(tiny_base, folder, loras, **weights):
    settings = {"base_model": tiny_base, "output_dir": str(folder), **loras, **weights}
    return load_lora(train(resolve(DirectSumConfig, "embedded", **settings)).path)


def product(pair) -> torch.Tensor:
    return pair[0] @ pair[1]


def test_its_jobs_are_named_with_and_without_the_method():
    assert job_named("lora", "content") is job_named("lora", "lora-content") is LoraContentConfig
    assert job_named("direct-sum", None) is DirectSumConfig


def test_a_lora_starts_as_nothing_and_apart_from_the_other_kind(tiny_base, folders, tmp_path):
    downs = {}
    for kind, job in (("content", LoraContentConfig), ("style", LoraStyleConfig)):
        common = {"base_model": tiny_base, "resolution": SIZE, "rank": 4, "output_dir": str(tmp_path)}
        config = resolve(job, "embedded", **{f"{kind}_dir": folders[kind]}, **common)
        learner = method("lora").task(config).start(open_backbone(tiny_base))
        layers = learner.adapter.lora()
        assert not any(up.any() for up, _ in layers.values())
        downs[kind] = next(down for _, down in layers.values())
    assert not torch.equal(downs["content"], downs["style"])
    assert downs["content"].norm(dim=1).mean() == pytest.approx(1, rel=0.3)


def test_the_file_is_an_ordinary_lora_that_says_what_was_trained(loras):
    for kind in ("content", "style"):
        layers, metadata = load_lora(loras[f"{kind}_file"])
        assert {len(down) for _, down in layers.values()} == {4} and len(layers) == 56
        learned = sum(up.numel() + down.numel() for up, down in layers.values())
        assert metadata["b4m.trained_parameters"] == str(learned) and metadata["b4m.made_by"] == "lora"
        assert metadata[f"b4m.{kind}_trigger"] in metadata[f"b4m.{kind}_prompt"]


def test_the_sum_is_the_sum_with_its_weights(tiny_base, loras, tmp_path):
    content, style = (load_lora(path)[0] for path in loras.values())
    layers, metadata = summed(tiny_base, tmp_path / "sum", loras, content_weight=0.5, style_weight=-2.0)
    assert layers.keys() == content.keys() | style.keys()
    for name, pair in layers.items():
        expected = 0.5 * product(content[name]) - 2 * product(style[name])
        assert torch.allclose(product(pair), expected, atol=1e-6) and pair[1].shape[0] == 8
    assert (metadata["b4m.content_weight"], metadata["b4m.style_weight"]) == ("0.5", "-2.0")
    assert metadata["b4m.content_trigger"] == "snq" and metadata["b4m.style_trigger"] == "w@z"


def test_the_sum_says_what_was_trained_for_both_unless_one_does_not_say(tiny_base, loras, tmp_path):
    said = {path: load_lora(path)[1]["b4m.trained_parameters"] for path in loras.values()}
    _, metadata = summed(tiny_base, tmp_path / "sum", loras)
    assert metadata["b4m.trained_parameters"] == str(sum(map(int, said.values())))
    for number, word in enumerate((None, "", "many", "-4", "٤", "9" * 5000)):
        silent = str(tmp_path / f"{number}.safetensors")
        header = {} if word is None else {"b4m.trained_parameters": word}
        save_lora(silent, load_lora(loras["style_file"])[0], header)
        _, metadata = summed(tiny_base, tmp_path / f"sum {number}", {**loras, "style_file": silent})
        assert "b4m.trained_parameters" not in metadata, word


def test_a_layer_that_only_one_has_is_taken_over():
    pairs = {name: (torch.ones(3, 1), torch.full((1, 2), 2.0)) for name in ("a", "b")}
    layers = side_by_side([(3.0, {"a": pairs["a"]}), (1.0, pairs)])
    assert product(layers["a"]).unique().item() == 8 and product(layers["b"]).unique().item() == 2


def test_what_is_no_lora_or_of_another_base_is_refused(tiny_base, loras, trained, tmp_path):
    def merging(**changes):
        settings = {"base_model": tiny_base, "output_dir": str(tmp_path / "out"), **loras, **changes}
        return train(resolve(DirectSumConfig, "embedded", **settings))

    refused(lambda: merging(content_file=trained["content_file"]), trained["content_file"], "lora:content")
    other = str(tmp_path / "other.safetensors")
    layers = load_lora(loras["style_file"])[0]
    save_lora(other, {name: (up[:-1], down) for name, (up, down) in layers.items()}, {})
    refused(lambda: merging(style_file=other), other, tiny_base)
    refused(lambda: resolve(DirectSumConfig, content_file=loras["content_file"]), "--style-file is missing")
    assert not list((tmp_path / "out").glob("*.safetensors"))
