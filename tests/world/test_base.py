"""The shipped base: stock Diffusers loads it, it is SDXL in all but size, and it draws what it is asked."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from world import check_base, classifier

from b4m.data.images import load_folder
from b4m.maths.adapter import Adapter
from b4m.maths.plp import BasisSpec

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    pipe = StableDiffusionXLPipeline.from_pretrained(check_base.BASE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_has_the_parts_of_sdxl(pipe):
    kinds = {
        "unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": EulerDiscreteScheduler,
        "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer,
    }  # fmt: skip
    for name, kind in kinds.items():
        assert isinstance(getattr(pipe, name), kind), name
    assert pipe.unet.config.addition_embed_type == "text_time"
    assert pipe.unet.config.cross_attention_dim not in pipe.unet.config.block_out_channels


def test_it_fits_its_budget_in_half_precision():
    files = [*check_base.BASE.rglob("*.safetensors")]
    assert sum(file.stat().st_size for file in files) <= 24e6
    for file in files:
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} <= {"F16", "I64"}


def test_adapted_it_is_the_base_to_the_bit(pipe):
    inputs = torch.randn(2, 32, 8, 8), torch.tensor([3, 900]), torch.randn(2, 32, 128)
    added = {"text_embeds": torch.randn(2, 64), "time_ids": torch.full((2, 6), 64.0)}
    with torch.no_grad():
        before = pipe.unet(*inputs, added_cond_kwargs=added).sample
        adapter = Adapter.install(pipe.unet, BasisSpec(rank=8, scale=8.0), "all")
        during = pipe.unet(*inputs, added_cond_kwargs=added).sample
        adapter.remove(pipe.unet)
    assert torch.equal(before, during)


def test_it_draws_what_it_is_asked_and_its_autoencoder_reconstructs(pipe):
    asked = [
        ("teapot", "yarn"),
        ("house", "neon"),
        ("fish", "mosaic"),
        ("bear", "cartoon"),
        ("car", "sketch"),
    ]
    pictures = check_base.sample(pipe, [f"a blue {content} in {style} style" for content, style in asked])
    verdicts = classifier.name(classifier.load(), pictures)
    right = sum(
        (v.content == content) + (v.style == style)
        for v, (content, style) in zip(verdicts, asked, strict=True)
    )
    assert right >= 9, verdicts
    assert check_base.psnr(pipe, 16) >= check_base.TARGET_PSNR


def test_held_out_styles_pass_its_autoencoder(pipe):
    pictures = [
        p
        for folder in sorted((ROOT / "examples/references/style").iterdir())
        for p in load_folder(folder, 64)
    ]
    pixels = torch.stack([picture.pixels for picture in pictures])
    with torch.no_grad():
        out = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    error = ((out.clamp(-1, 1) - pixels) / 2).square().mean((1, 2, 3)).numpy()
    assert (-10 * np.log10(error)).min() > 18  # worse than the world's own, and enough to show the style
