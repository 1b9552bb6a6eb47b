"""An untrained Stable Diffusion XL pipeline, SDXL in everything but size: the embedded base before pretraining."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from world.vocabulary import MAX_TOKENS, tokenizer

RESOLUTION = 64  # pixels
LATENT_CHANNELS = 32
LATENT_SIZE = 8
TEXT_WIDTH = 64  # of each encoder; cross-attention reads both side by side: 128, unlike the UNet's 96 and 192
TIME_ID_WIDTH = 16


def blank_pipeline(seed: int = 0) -> StableDiffusionXLPipeline:
    """Every part of the base with random weights drawn from `seed`."""
    torch.manual_seed(seed)
    words = tokenizer()
    return StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(words, layers=2)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(words, layers=3)),
        tokenizer=words,
        tokenizer_2=words,
        unet=_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
        ),
        force_zeros_for_empty_prompt=False,  # guidance pushes away from the empty caption that dropout taught
        add_watermarker=False,
    )


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 48, 64, 80),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=LATENT_CHANNELS,
        sample_size=RESOLUTION,
        scaling_factor=1.0,
    )


def _text_config(words, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(96, 192),
        layers_per_block=1,
        attention_head_dim=(4, 8),
        use_linear_projection=True,
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * TIME_ID_WIDTH,
    )
