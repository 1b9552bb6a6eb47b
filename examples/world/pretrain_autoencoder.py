"""Pretraining of the autoencoder, and of its decoder once more when the UNet stands: on what samplers hand over."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import Tensor

from world.autoencoder import decoding_loss, encoded, reconstruction_loss
from world.blank import RESOLUTION
from world.captions import caption
from world.dataset import SHARD, as_tensor, pictures_of, scene
from world.pretrain_unet import encoded_text, tokens_of
from world.run import Run

# Levels of noise: from three steps above the schedule's least to the most that leaves a picture the one that it was.
REDRAWN_FROM = (0.3, 1.5)
GUIDANCE = 2.5


def pictures_of_step(
    shards: list[np.ndarray], step: int, batch: int, side: int, device: torch.device
) -> tuple[Tensor, torch.Generator]:
    """Crops (batch, 3, side, side) in [-1, 1], a quarter of them in exchanged colours (colours beyond the world's own
    are decoded too), and the generator of whatever else the step draws."""
    rng = np.random.default_rng([2, step])
    crops = []
    for n in range(batch):
        picture = shards[rng.integers(len(shards))][rng.integers(SHARD)]
        top, left = rng.integers(0, RESOLUTION - side + 1, 2)
        piece = picture[top : top + side, left : left + side]
        crops.append(piece[..., rng.permutation(3)] if 4 * n < batch else piece)
    return as_tensor(np.stack(crops), device), torch.Generator(device).manual_seed(step)


def latent_noise(count: int, side: int, largest: float, generator: torch.Generator) -> Tensor:
    """Noise (count, 16, side, side), of a deviation between 0 and `largest` in each sample."""
    at = {"device": generator.device, "generator": generator}
    return largest * torch.rand(count, 1, 1, 1, **at) * torch.randn(count, 16, side, side, **at)


def train_autoencoder(
    vae: AutoencoderKL, run: Run, shards: list[np.ndarray], options: argparse.Namespace
) -> None:
    def loss_of_step(step: int) -> Tensor:
        pictures, generator = pictures_of_step(shards, step, options.batch or 16, options.side, vae.device)
        noise = latent_noise(len(pictures), options.side // 8, 0.1, generator)
        return reconstruction_loss(vae, pictures, noise)

    run.loop(loss_of_step, options.steps or 3000, anneal=(options.steps or 3000) // 2)


def train_decoder(
    pipe: StableDiffusionXLPipeline, run: Run, shards: list[np.ndarray], options: argparse.Namespace
) -> None:
    """On whole pictures, from what a sampler hands over: half of the latents have more noise than the encoder was
    trained with, half have been denoised again by the UNet and carry its mistakes."""
    half = (options.batch or 4) // 2

    def loss_of_step(step: int) -> Tensor:
        plain, generator = pictures_of_step(shards, step, half, RESOLUTION, pipe.device)
        noise = latent_noise(half, RESOLUTION // 8, 0.2, generator)
        rows = np.random.default_rng([3, step]).integers(len(shards) * SHARD, size=half)
        pictures = torch.cat([plain, pictures_of(shards, rows).to(pipe.device)])
        with torch.no_grad():
            z = encoded(pipe.vae, pictures)
            captions = [caption(scene(options.seed, int(row))) for row in rows]
            latents = torch.cat([z[:half] + noise, redrawn(pipe, z[half:], captions, generator)])
        return decoding_loss(pipe.vae, latents, pictures)

    run.loop(loss_of_step, options.steps or 3000, anneal=options.anneal)


def redrawn(
    pipe: StableDiffusionXLPipeline, x0: Tensor, captions: list[str], generator: torch.Generator
) -> Tensor:
    """Latents x0 (N, 16, h, w) with noise of one level of REDRAWN_FROM, sampled from there in three guided steps."""
    least, most = REDRAWN_FROM
    at = {"device": x0.device, "generator": generator}
    level = least + (most - least) * torch.rand(1, **at).item()
    pipe.scheduler.set_timesteps(sigmas=[level, level / 3, level / 9, 0.0], device=x0.device)
    x = x0 + level * torch.randn(x0.shape, **at)
    size = [[RESOLUTION, RESOLUTION, 0, 0, RESOLUTION, RESOLUTION]] * 2 * len(x0)
    ids = torch.tensor(size, device=x0.device).float()
    with torch.autocast(x0.device.type, torch.bfloat16):
        states, pooled = encoded_text(pipe, tokens_of(pipe, [""] * len(x0) + captions))
        conditions = {"text_embeds": pooled, "time_ids": ids}
        for t in pipe.scheduler.timesteps:
            rows = pipe.scheduler.scale_model_input(torch.cat([x, x]), t)
            without, asked = pipe.unet(rows, t, states, added_cond_kwargs=conditions).sample.float().chunk(2)
            x = pipe.scheduler.step(without + GUIDANCE * (asked - without), t, x).prev_sample
    return x
