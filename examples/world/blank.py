"""An untrained Stable Diffusion XL pipeline, SDXL in everything but size: the embedded base before pretraining."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from world.vocabulary import MAX_TOKENS, tokenizer

RESOLUTION = 128  # pixels
LATENT_CHANNELS = 16
LATENT_SIZE = 16
UNET_WIDTHS = (64, 128, 256)
TEXT_WIDTH = 96  # of each encoder; cross-attention reads both side by side: 192, unlike any width of the UNet
TIME_ID_WIDTH = 16


def blank_pipeline(seed: int = 0) -> StableDiffusionXLPipeline:
    """Every part of the base with random weights drawn from `seed`."""
    torch.manual_seed(seed)
    words = tokenizer()
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(_text_config(words, layers=2)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(words, layers=3)),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet(),
        # v rather than epsilon: at the noisiest level, where the colours of large areas are decided, epsilon says
        # next to nothing of the image; a model of this size then draws grounds of drifting brightness.
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


def autoencoder() -> AutoencoderKL:
    """(N, 3, 128, 128) in [-1, 1] to latents (N, 16, 16, 16) and back; convolutions only, so that crops train it."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 48, 64, 80),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        latent_channels=LATENT_CHANNELS,
        sample_size=RESOLUTION,
        scaling_factor=1.0,
    )


def unet() -> UNet2DConditionModel:
    """Velocity of latents (N, 16, 16, 16); blocks as in SDXL: the outermost level has no attention."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=UNET_WIDTHS,
        layers_per_block=1,
        transformer_layers_per_block=1,
        attention_head_dim=(2, 4, 8),  # heads, as in SDXL's configuration: each of width 32
        use_linear_projection=True,
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * TIME_ID_WIDTH,
    )


def _text_config(words: CLIPTokenizer, layers: int) -> CLIPTextConfig:
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
