"""The base and the encoders that ship: stock Diffusers and transformers open them, and they know the drawn world."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import AutoModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from world import check_base, check_encoders
from world.captions import caption
from world.judge import labels
from world.members import LABELS
from world.scenes import render, sample_scene

ENCODERS = (*LABELS, "prompt")


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    pipe = StableDiffusionXLPipeline.from_pretrained(check_base.BASE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_has_the_parts_of_sdxl_and_opens_in_float32(pipe):
    kinds = {
        "unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": EulerDiscreteScheduler,
        "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer,
    }  # fmt: skip
    for part, kind in kinds.items():
        assert isinstance(getattr(pipe, part), kind), part
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_dtype_that_is_given_holds_for_every_part(dtype):
    pipe = StableDiffusionXLPipeline.from_pretrained(check_base.BASE, dtype=dtype)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)} == {dtype}


def test_base_and_encoders_fit_their_budget_in_half_precision():
    folders = (check_base.BASE, check_encoders.ENCODERS, check_base.JUDGES)
    files = [file for folder in folders for file in folder.rglob("*.safetensors")]
    assert sum(file.stat().st_size for file in files) <= 60e6
    for file in files:
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} <= {"F16", "I64"}, file


@pytest.mark.parametrize("folder", ENCODERS)
def test_an_encoder_is_an_ordinary_folder_of_transformers(folder):
    place = check_encoders.ENCODERS / folder
    trunk, report = AutoModel.from_pretrained(place, use_safetensors=True, output_loading_info=True)
    assert not report["missing_keys"] and hasattr(trunk, "vision_model" if folder == "prompt" else "pooler")
    prepared = json.loads((place / "preprocessor_config.json").read_text())
    assert prepared["size"] == {"height": 128, "width": 128}


def test_the_encoders_name_what_the_world_draws():
    rng = np.random.default_rng(11)
    scenes = [sample_scene(rng) for _ in range(64)]
    found = check_base.named([render(scene) for scene in scenes], scenes)
    assert found["content"]["all"] >= 0.9 and found["style"]["all"] >= 0.9, found


def test_what_a_style_hides_is_asked_of_nobody(tmp_path, monkeypatch):
    rng = np.random.default_rng(11)
    scenes = [sample_scene(rng, families=(family,)) for family in ("photo", "blueprint")]
    said = {aspect: [labels(scene)[aspect] for scene in scenes] for aspect in ("class", "main")}
    said["main"][1] = "another"
    (tmp_path / "resnet.safetensors").touch()
    monkeypatch.setattr(check_base, "load_judge", lambda path: SimpleNamespace(name=lambda pictures: said))
    found = check_base.obeyed(tmp_path, [render(scene) for scene in scenes], scenes)
    assert found == {"resnet": {"class": 1.0, "main": 1.0}}
    found = check_base.named([render(scene) for scene in scenes], scenes)
    assert "blueprint" in found["style"] and "blueprint" not in found["colour"]


def test_it_draws_what_it_is_asked_and_its_autoencoder_reconstructs(pipe):
    asked = [
        ("car", "photo"),
        ("house", "yarn"),
        ("lamp", "watercolour"),
        ("train", "mosaic"),
        ("flower", "cartoon"),
    ]
    rng = np.random.default_rng(5)
    scenes = [sample_scene(rng, contents=(content,), families=(style,)) for content, style in asked]
    found = check_base.named(check_base.sample(pipe, [caption(scene) for scene in scenes]), scenes)
    assert found["content"]["all"] + found["style"]["all"] >= 1.8, found
    # Wanted are 30 dB over all families; this base has 30.4 (base.json), and more than that on these five.
    assert check_base.psnr(pipe, scenes)["all"] >= 29
