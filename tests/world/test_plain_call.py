"""The embedded base as a newcomer opens it: stock Diffusers, one line, no dtype; and a new base is saved like that."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from world.blank import blank_pipeline
from world.pretrain import BASE, save


def draws(folder: Path) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}
    image = pipe("a blue bear in yarn style", num_inference_steps=2).images[0]
    assert image.size == (64, 64) and len(image.getcolors(64 * 64)) > 100


def test_the_plain_call_draws():
    draws(BASE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_dtype_that_is_given_holds_for_every_part(dtype):
    pipe = StableDiffusionXLPipeline.from_pretrained(BASE, dtype=dtype)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)} == {dtype}


def test_a_new_base_is_saved_like_that(tmp_path):
    save(blank_pipeline(), tmp_path / "base")
    draws(tmp_path / "base")
    for name in ("text_encoder", "text_encoder_2"):
        written = (tmp_path / "base" / name / "config.json").read_text()
        assert written == (BASE / name / "config.json").read_text()
