"""The base's pipeline, untrained: SDXL in all but size, adapted as it is, and opened by stock Diffusers."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from world.blank import blank_pipeline
from world.pretrain import save_pipeline

from b4m.maths.adapter import Adapter
from b4m.maths.plp import BasisSpec


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    return blank_pipeline()


def test_its_unet_has_the_shape_and_the_names_of_sdxl(pipe):
    unet = pipe.unet
    assert unet.config.down_block_types == ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    assert unet.config.up_block_types == ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    assert len(unet.up_blocks[0].attentions) >= 2  # B-LoRA selects by them
    assert unet.config.addition_embed_type == "text_time"
    assert unet.config.cross_attention_dim not in unet.config.block_out_channels
    assert sum(p.numel() for p in unet.parameters()) < 18e6


def test_adapted_it_is_the_base_to_the_bit(pipe):
    width = pipe.unet.config.cross_attention_dim
    inputs = torch.randn(2, 16, 16, 16), torch.tensor([3, 900]), torch.randn(2, 40, width)
    pooled = pipe.text_encoder_2.config.projection_dim
    added = {"text_embeds": torch.randn(2, pooled), "time_ids": torch.full((2, 6), 128.0)}
    with torch.no_grad():
        before = pipe.unet(*inputs, added_cond_kwargs=added).sample
        adapter = Adapter.install(pipe.unet, BasisSpec(rank=8, scale=8.0), "all")
        during = pipe.unet(*inputs, added_cond_kwargs=added).sample
        adapter.remove(pipe.unet)
    assert torch.equal(before, during)


def test_saved_it_opens_without_a_dtype_and_draws(tmp_path):
    save_pipeline(blank_pipeline(), tmp_path)
    files = [*tmp_path.rglob("*.safetensors")]
    assert sum(file.stat().st_size for file in files) < 60e6
    pipe = StableDiffusionXLPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a bear in yarn style", num_inference_steps=1).images[0]
    assert image.size == (128, 128)
