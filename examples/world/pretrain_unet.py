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
from world.blank import RESOLUTION
from world.captions import noisy_caption
from world.dataset import SHARD, as_tensor, draw_shard, drawn_shards, scene, shard_name
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
    vae: AutoencoderKL, work: Path, seed: int, shard: int, pixels: np.ndarray, side: int
) -> Tensor:
    """Latents of one shard at `side` pixels as float16 (SHARD, 16, side / 8, side / 8), kept on disk beside it."""
    path = work / f"latents-{side}-{shard_name(seed, shard)}.safetensors"
    encoder = fingerprint(vae)
    if path.exists() and safe_open(path, "pt").metadata()["encoder"] == encoder:
        return load_file(path)["latents"]
    starts = range(0, SHARD, 64)
    with torch.autocast("cpu", torch.bfloat16):
        batches = (avg_pool2d(as_tensor(pixels[i : i + 64]), RESOLUTION // side) for i in starts)
        parts = [vae.encode(batch).latent_dist.mode().half() for batch in batches]
    latents = torch.cat(parts)
    part = path.with_suffix(".part")
    save_file({"latents": latents}, part, {"encoder": encoder})
    part.replace(path)
    return latents


def fingerprint(vae: AutoencoderKL) -> str:
    """Of the encoder: latents of another one are of no use."""
    parts = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parts)).hexdigest()[:16]


class Latents:
    """The latents of all shards in use; shards drawn meanwhile join when the state is saved, which records how many."""

    def __init__(self, vae: AutoencoderKL, work: Path, seed: int, side: int, counts: dict[str, int]):
        self.vae, self.work, self.seed, self.side, self.counts, self.parts = vae, work, seed, side, counts, []
        if "shards" in counts:
            self._read(counts["shards"])
        else:
            self.look()

    def look(self) -> None:
        self._read(processes.agreed(len(drawn_shards(self.work, self.seed))))
        self.counts["shards"] = len(self.parts)

    def _read(self, count: int) -> None:
        for shard in range(len(self.parts), count):
            with processes.first_alone():
                pixels = draw_shard(self.work, self.seed, shard)
                self.parts.append(latents_of(self.vae, self.work, self.seed, shard, pixels, self.side))

    def __len__(self) -> int:
        return len(self.parts) * SHARD

    def rows(self, rows: np.ndarray) -> Tensor:
        return torch.stack([self.parts[i // SHARD][i % SHARD] for i in rows.tolist()]).float()


def encode_captions(pipe: StableDiffusionXLPipeline, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Both encoders as SDXL reads them: penultimate states side by side, and the second one's pooled text."""
    ids = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    first = pipe.text_encoder(ids, output_hidden_states=True)
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second[0]


def time_ids(rng: np.random.Generator, batch: int, side: int) -> Tensor:
    """(batch, 6): SDXL's size conditioning; in a quarter of the rows any original size and crop: neither means much."""
    ids = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32)
    ids = ids.repeat(batch, 1)
    for row in range(batch):
        if rng.random() < 0.25:
            ids[row, :2] = float(rng.integers(side, 4096))
            ids[row, 2:4] = torch.tensor(rng.integers(0, 512, 2), dtype=torch.float32)
    return ids


def noise_levels(alphas: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,), stratified: every step sees all levels, which halves the variance of the gradient."""
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    sigma = NOISE_MEDIAN * side * torch.exp(NOISE_SPREAD * torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6)))
    return torch.searchsorted((1 / alphas - 1).sqrt(), sigma).clamp(max=len(alphas) - 1)


def velocity_loss(
    pipe: StableDiffusionXLPipeline, x0: Tensor, captions: list[str], t: Tensor, noise: Tensor, ids: Tensor
) -> Tensor:
    """Mean squared error of v, of latents x0 (N, 16, h, w) at timesteps t (N,)."""
    a = pipe.scheduler.alphas_cumprod[t]
    alpha, sigma = a.sqrt()[:, None, None, None], (1 - a).sqrt()[:, None, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        states, pooled = encode_captions(pipe, captions)
        conditions = {"text_embeds": pooled, "time_ids": ids}
        v = pipe.unet(alpha * x0 + sigma * noise, t, states, added_cond_kwargs=conditions).sample
    return (v.float() - (alpha * noise - sigma * x0)).square().mean()


def train_unet(pipe: StableDiffusionXLPipeline, run: Run, options: argparse.Namespace) -> None:
    batch, seed = options.batch or 32, options.seed
    latents = Latents(pipe.vae, options.work, seed, options.side, run.counts)

    def loss_of_step(step: int) -> Tensor:
        if step % options.save_every == 0 and not options.anneal:
            latents.look()
        rng = np.random.default_rng([1, seed, step])
        generator = torch.Generator().manual_seed(step)
        rows = rng.choice(len(latents), batch, replace=False)
        captions = [
            noisy_caption(scene(seed, int(i)), rng) if rng.random() > CAPTION_DROPOUT else "" for i in rows
        ]
        mine = processes.share()
        x0 = latents.rows(rows[mine])
        t = noise_levels(pipe.scheduler.alphas_cumprod, batch, options.side, generator)
        noise = torch.randn((batch, *x0.shape[1:]), generator=generator)
        ids = time_ids(rng, batch, options.side)
        return velocity_loss(pipe, x0, captions[mine], t[mine], noise[mine], ids[mine])

    steps = (
        run.counts.setdefault("end", run.step + options.anneal) if options.anneal else options.steps or 8000
    )
    run.loop(loss_of_step, steps, options.anneal, options.save_every)
