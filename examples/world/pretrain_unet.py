"""Pretraining of the UNet and both text encoders: the velocity of noised latents, under noisy captions."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d

from world import processes
from world.autoencoder import encoded
from world.blank import RESOLUTION
from world.dataset import SHARD, WORDINGS, as_tensor, draw_shard, drawn_shards, shard_name, worded_shard
from world.run import Run

CAPTION_DROPOUT = 0.1
# Noise levels are drawn as exp(normal), deviation of the noise against that of the latents (EDM2's choice). An outline
# is decided between 2 and 8: around a median of 1.3 a base learned colours, grounds and textures, denoised a drawing
# from level 4 to a teapot, and itself drew blobs. With half of the levels there (median 3.4, spread 1, steps 17,000 to
# 24,000) it drew most classes, and its loss at level 0.5, where the grain of a texture is, rose by 1 %: hence more
# spread since, with 42 % between 2 and 8 and 20 % below 1. (What each change alone brought was not measured.) At half
# the side an outline is taken to be decided at half the noise.
NOISE_MEDIAN, NOISE_SPREAD = 2.8 / RESOLUTION, 1.2  # the median per pixel of the side


@torch.no_grad()
def latents_of(
    vae: AutoencoderKL, encoder: str, work: Path, seed: int, shard: int, pixels: np.ndarray, side: int
) -> Tensor:
    """Latents of one shard at `side` pixels as float16 (SHARD, 16, side / 8, side / 8), kept on disk beside it.

    encoder: the fingerprint of the encoder of `vae`.
    """
    path = work / f"latents-{side}-{shard_name(seed, shard)}.safetensors"
    if path.exists() and safe_open(path, "pt").metadata()["encoder"] == encoder:
        return load_file(path)["latents"]
    parts = []
    for start in range(0, SHARD, 64):
        pictures = as_tensor(pixels[start : start + 64], vae.device)
        parts.append(encoded(vae, avg_pool2d(pictures, RESOLUTION // side)).half())
    latents = torch.cat(parts).cpu().contiguous()
    part = path.with_suffix(".part")
    save_file({"latents": latents}, part, {"encoder": encoder})
    part.replace(path)
    return latents


def fingerprint(vae: AutoencoderKL) -> str:
    """Of the encoder: latents of another one are of no use."""
    parts = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    return hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in parts)).hexdigest()[:16]


class Examples:
    """Latents (N, 16, h, w) and wordings (N, WORDINGS, T) of all shards in use, on the device of the pipeline; shards
    drawn meanwhile join when the state is saved, which records how many."""

    def __init__(
        self, pipe: StableDiffusionXLPipeline, work: Path, seed: int, side: int, counts: dict[str, int]
    ):
        self.vae, self.work, self.seed, self.side, self.counts = pipe.vae, work, seed, side, counts
        self.encoder, self.shards = fingerprint(pipe.vae), 0
        self.latents, self.wordings = (torch.empty(0, device=pipe.device) for _ in range(2))
        self.nothing = tokens_of(pipe, [""])
        if "shards" in counts:
            self._read(counts["shards"])
        else:
            self.look()

    def look(self) -> None:
        self._read(processes.agreed(len(drawn_shards(self.work, self.seed))))
        self.counts["shards"] = self.shards

    def _read(self, count: int) -> None:
        for shard in range(self.shards, count):
            with processes.first_alone():
                words = torch.from_numpy(worded_shard(self.work, self.seed, shard))
                pixels = draw_shard(self.work, self.seed, shard)
                latents = latents_of(self.vae, self.encoder, self.work, self.seed, shard, pixels, self.side)
            self.latents = _with_more(self.latents, latents)
            self.wordings = _with_more(self.wordings, words)
            self.shards += 1

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (batch, 16, h, w) and the tokens (batch, T) of a caption of each, some of them empty."""
        at = {"device": generator.device, "generator": generator}
        rows = torch.randint(len(self.latents), (batch,), **at)
        ids = self.wordings[rows, torch.randint(WORDINGS, (batch,), **at)].long()
        silent = torch.rand(batch, 1, **at) < CAPTION_DROPOUT
        return self.latents[rows].float(), torch.where(silent, self.nothing, ids)


def _with_more(rows: Tensor, more: Tensor) -> Tensor:
    more = more.to(rows.device)
    return torch.cat([rows, more]) if len(rows) else more


def tokens_of(pipe: StableDiffusionXLPipeline, captions: list[str]) -> Tensor:
    """(N, T) numbers of tokens."""
    ids = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids.to(pipe.device)


def encoded_text(pipe: StableDiffusionXLPipeline, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (N, T) as SDXL reads them: both encoders' penultimate states side by side; the second's pooled text."""
    first = pipe.text_encoder(ids, output_hidden_states=True)
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second[0]


def time_ids(batch: int, side: int, generator: torch.Generator) -> Tensor:
    """(batch, 6): SDXL's size conditioning; in a quarter of the rows any original size and crop: neither means much."""
    at = {"device": generator.device, "generator": generator}
    told = torch.tensor([side, side, 0, 0, side, side], device=generator.device).repeat(batch, 1)
    original = torch.randint(side, 4096, (batch, 1), **at).expand(-1, 2)
    crop = torch.randint(512, (batch, 2), **at)
    any_size = torch.rand(batch, 1, **at) < 0.25
    return torch.where(any_size, torch.cat([original, crop, told[:, 4:]], 1), told).float()


def noise_levels(alphas: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,), stratified: every step sees all levels, which halves the variance of the gradient."""
    spread = torch.rand(count, device=generator.device, generator=generator)
    share = (torch.arange(count, device=generator.device) + spread) / count
    sigma = NOISE_MEDIAN * side * torch.exp(NOISE_SPREAD * torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6)))
    return torch.searchsorted((1 / alphas - 1).sqrt(), sigma).clamp(max=len(alphas) - 1)


def velocity_loss(
    pipe: StableDiffusionXLPipeline,
    x0: Tensor,
    ids: Tensor,
    t: Tensor,
    a: Tensor,
    noise: Tensor,
    size: Tensor,
) -> Tensor:
    """Mean squared error of v, of latents x0 and their noise (N, 16, h, w) at timesteps t (N,) with cumulative alphas
    a (N,), under the tokens ids (N, T) and the sizes (N, 6) of `time_ids`."""
    alpha, sigma = a.sqrt()[:, None, None, None], (1 - a).sqrt()[:, None, None, None]
    with torch.autocast(x0.device.type, torch.bfloat16):
        states, pooled = encoded_text(pipe, ids)
        conditions = {"text_embeds": pooled, "time_ids": size}
        v = pipe.unet(alpha * x0 + sigma * noise, t, states, added_cond_kwargs=conditions).sample
    return (v.float() - (alpha * noise - sigma * x0)).square().mean()


def train_unet(pipe: StableDiffusionXLPipeline, run: Run, options: argparse.Namespace) -> None:
    batch, seed, side, mine = options.batch or 32, options.seed, options.side, processes.share()
    examples = Examples(pipe, options.work, seed, side, run.counts)
    alphas = pipe.scheduler.alphas_cumprod.to(pipe.device)

    def loss_of_step(step: int) -> Tensor:
        if step % options.save_every == 0:
            examples.look()
        generator = torch.Generator(pipe.device).manual_seed((seed << 32) + step)
        x0, ids = examples.draw(batch, generator)
        t = noise_levels(alphas, batch, side, generator)
        noise = torch.randn(x0.shape, device=x0.device, generator=generator)
        size = time_ids(batch, side, generator)
        return velocity_loss(pipe, x0[mine], ids[mine], t[mine], alphas[t[mine]], noise[mine], size[mine])

    steps = (
        run.counts.setdefault("end", run.step + options.anneal) if options.anneal else options.steps or 8000
    )
    run.loop(loss_of_step, steps, options.anneal, options.save_every)
