"""Two LoRAs made elsewhere: what the second stage names takes them, each at the scale of the tool that made it."""

import json
from pathlib import Path

import pytest
import torch
from conftest import refused
from loras import job, product, random_lora
from safetensors.torch import load_file, save_file

from b4m.backbones.registry import open_backbone
from b4m.files.contents import Layers
from b4m.files.lora import load_lora, save_lora
from b4m.files.opening import open_any
from b4m.methods.k_lora import KLoraConfig
from b4m.methods.low_rank import DirectSumConfig
from b4m.methods.registry import method
from b4m.methods.ziplora import ZipLoraConfig
from b4m.sampling.attach import attach, detach
from b4m.training.loop import train

SCALES = {"content": 0.5, "style": 3.0}


def from_kohya(path: Path, layers: Layers, scale: float) -> Path:
    """Keys with underscores, and an alpha beside each layer."""
    save_lora(path, layers, {}, dialect="kohya")
    tensors = load_file(path)
    save_file({name: t * scale if name.endswith("alpha") else t for name, t in tensors.items()}, path)
    return path


def from_peft(path: Path, layers: Layers, scale: float) -> Path:
    """A folder, whose settings hold the scale."""
    path.mkdir()
    tensors = {}
    for layer, (up, down) in layers.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = down
        tensors[f"base_model.model.{layer}.lora_B.weight"] = up
    save_file(tensors, path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": len(down), "lora_alpha": scale * len(down)}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def layers(tiny_base) -> dict[str, Layers]:
    return {kind: random_lora(tiny_base, seed) for seed, kind in enumerate(SCALES)}


@pytest.fixture(scope="module")
def files(layers, tmp_path_factory) -> dict[str, str]:
    """A content's LoRA as kohya writes it, and a style's as peft does."""
    folder = tmp_path_factory.mktemp("elsewhere")
    content = from_kohya(folder / "A.safetensors", layers["content"], SCALES["content"])
    style = from_peft(folder / "B", layers["style"], SCALES["style"])
    return {"content_file": str(content), "style_file": str(style)}


def is_sum(found: Layers, layers: dict[str, Layers]) -> None:
    assert found.keys() == layers["content"].keys() | layers["style"].keys()
    for name, pair in found.items():
        asked = sum(scale * product(layers[kind][name]) for kind, scale in SCALES.items())
        torch.testing.assert_close(product(pair), asked, atol=1e-4, rtol=1e-4)


def test_direct_sum_takes_them(files, layers, tiny_base, tmp_path):
    is_sum(load_lora(train(job(DirectSumConfig, tiny_base, tmp_path, **files)).path)[0], layers)


def test_ziplora_takes_them(files, layers, tiny_base, folders, tmp_path):
    images = {"content_dir": folders["content"], "style_dir": folders["style"]}
    path = train(job(ZipLoraConfig, tiny_base, tmp_path, **images, **files, lr=1e-9)).path
    is_sum(load_lora(path)[0], layers)  # as mergers begin


def test_k_lora_takes_them(files, layers, tiny_base, tmp_path):
    path = train(job(KLoraConfig, tiny_base, tmp_path, **files)).path
    tensors = open_any(path).tensors
    for kind, scale in SCALES.items():
        for name, pair in layers[kind].items():
            kept = tensors[f"{kind}/{name}/up"], tensors[f"{kind}/{name}/down"]
            torch.testing.assert_close(product(kept), scale * product(pair), atol=1e-4, rtol=1e-4)
    attach(open_backbone(tiny_base), lora_file=str(path))


def test_generate_puts_them_together_and_says_so(files, tiny_base, capsys):
    backbone = open_backbone(tiny_base)
    attach(backbone, **files)
    detach(backbone)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "not trained to go together" in line]
    assert all(path in said for path in files.values())


def test_the_second_stage_names_what_takes_them(files, trained, settings, tmp_path):
    def second(**changed):
        return method("b4m").task(settings("second", tmp_path / "out", **{**files, **changed}))

    both = f"--content-file {files['content_file']} --style-file {files['style_file']}"
    ways = (
        "not a concept file",
        f"b4m train direct-sum {both}",
        "b4m train k-lora",
        "b4m train ziplora",
        "b4m generate",
    )
    assert "b4m export" not in refused(second, files["content_file"], "made elsewhere", *ways, limit=1000)
    refused(
        lambda: second(content_file=trained["content_file"]), files["style_file"], "b4m export", limit=1000
    )
    assert not (tmp_path / "out").exists()
