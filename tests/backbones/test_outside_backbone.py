"""A model family in a package of its own (tests/outside/b4m_echo): its base models train and draw as ours do."""

import json

import numpy as np
import pytest
from conftest import SIZE, b4m_with, refused, tiny_sd15_pipeline
from PIL import Image

from b4m.backbones.registry import FAMILIES, family_of
from b4m.core.storage import read_tensors
from b4m.files.concept import load_concept


@pytest.fixture(scope="module")
def echo_base(tmp_path_factory) -> str:
    """A tiny base model of the family: its UNet hears the prompt in its time embedding too."""
    folder = tmp_path_factory.mktemp("echo")
    unet = {"addition_embed_type": "text", "addition_embed_type_num_heads": 8}
    tiny_sd15_pipeline(unet=unet).save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "EchoPipeline"}))
    return str(folder)


def test_the_command_line_trains_draws_and_exports(outside, echo_base, folders, tmp_path):
    base = ["--base-model", echo_base, "--preset", "embedded"]
    train = [*base, "--resolution", str(SIZE), "--steps", "2", "--lr", "0.05"]
    files = {kind: str(tmp_path / f"{kind}/{kind}.safetensors") for kind in ("content", "style")}
    images = {kind: [f"--{kind}-dir", folders[kind]] for kind in files}
    both = [word for kind in files for word in (*images[kind], f"--{kind}-file", files[kind])]
    fused, exported = (
        str(tmp_path / f"{name}.safetensors") for name in ("second/pytorch_lora_weights", "kohya")
    )
    draw = ["generate", *base, "--prompts", "a photo of snq bear", "--size", str(SIZE), "--steps", "2"]

    def stage_one(kind: str, partners: tuple[str, ...]) -> list[str]:
        command = [f"train-{kind}", *train, *images[kind], "--rank", "4", "--partner-dirs", *partners]
        return [*command, "--output-dir", str(tmp_path / kind)]

    printed = b4m_with(
        outside,
        stage_one("content", folders["styles"]),
        stage_one("style", folders["contents"]),
        ["second-stage", *train, *both, "--output-dir", str(tmp_path / "second")],
        [*draw, "--output-dir", str(tmp_path / "bare")],
        [*draw, "--lora-file", fused, "--output-dir", str(tmp_path / "drawn")],
        ["export", *base, "--lora-file", fused, "--dialect", "kohya-original", "--output", exported],
        ["info", fused],
    )
    assert "type: LoRA" in printed and "ss_base_model_version: echo_v1" in printed
    one, other = (np.asarray(Image.open(tmp_path / f"{name}/000_seed77.png")) for name in ("bare", "drawn"))
    assert one.shape == (SIZE, SIZE, 3) and (one != other).any()
    assert load_concept(files["content"]).metadata["base_model"] == echo_base
    for path in (fused, exported):
        assert read_tensors(path)[1]["modelspec.architecture"] == "echo-v1/lora"


def test_without_its_package_its_base_models_are_refused(echo_base):
    assert FAMILIES.names() == ["sdxl", "sd15"]
    refused(lambda: family_of(echo_base), echo_base, "EchoPipeline", "sdxl", "sd15")
