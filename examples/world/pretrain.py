"""Pretrain the embedded base from scratch: draw the world, write the encoder, train decoder, UNet and texts.

    python examples/world/pretrain.py            # everything, resumable: run it again and it goes on
    python examples/world/pretrain.py --part unet --threads 1    # one part, beside another

Cost on two CPU cores: see README.md beside this file.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from world.autoencoder import write_encoder
from world.blank import RESOLUTION, blank_pipeline
from world.dataset import as_tensor, pictures, scene
from world.vocabulary import noisy_caption

BASE = Path(__file__).resolve().parent / "base"
EMA = 0.999
CAPTION_DROPOUT = 0.1
SNR_CAP = 6.0


class Run:
    """Parameters in training, their optimizer, moving average and place in the schedule: one safetensors file."""

    def __init__(self, path: Path, modules: dict[str, torch.nn.Module], steps: int, rate: float):
        self.path, self.steps, self.rate, self.step = path, steps, rate, 0
        named = {
            f"{name}.{key}": p
            for name, m in modules.items()
            for key, p in m.named_parameters()
            if p.requires_grad
        }
        self.names, self.weights = list(named), list(named.values())
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = [w.detach().clone() for w in self.weights]
        if path.exists():
            self._load()

    def update(self, loss: Tensor) -> None:
        """One optimizer step on `loss`; warm up, hold, then anneal to zero over the second half."""
        if not torch.isfinite(loss):
            raise SystemExit(
                f"loss is {loss.item()} at step {self.step}: lower --rate; {self.path} holds the last good state"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        shape = min(1.0, (self.step + 1) / 200, 2 * (1 - self.step / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * shape
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        decay = min(EMA, self.step / (self.step + 20))
        torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    @torch.no_grad()
    def adopt_average(self) -> None:
        for weight, mean in zip(self.weights, self.average, strict=True):
            weight.copy_(mean)

    def save(self) -> None:
        tensors = {"step": torch.tensor(self.step)}
        for name, weight, mean in zip(self.names, self.weights, self.average, strict=True):
            kept = {"weight": weight, "average": mean, **self.optimizer.state[weight]}
            tensors |= {f"{key}:{name}": value.detach().contiguous() for key, value in kept.items()}
        part = self.path.with_suffix(".part")
        save_file(tensors, part)
        part.replace(self.path)

    @torch.no_grad()
    def _load(self) -> None:
        tensors = load_file(self.path)
        self.step = int(tensors["step"])
        for name, weight, mean in zip(self.names, self.weights, self.average, strict=True):
            weight.copy_(tensors[f"weight:{name}"])
            mean.copy_(tensors[f"average:{name}"])
            # SDXL reads the first encoder before its last layer, which so has no gradient and no state.
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}:{name}" in tensors]
            self.optimizer.state[weight] = {key: tensors[f"{key}:{name}"] for key in keys}

    def loop(self, name: str, loss_of_step, save_every: int) -> None:
        bar = tqdm(range(self.step, self.steps), name, initial=self.step, total=self.steps, mininterval=5)
        smooth, start = None, time.time()
        for step in bar:
            loss = loss_of_step(step)
            self.update(loss)
            smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
            if self.step % 200 == 0:
                bar.write(f"{name} step {self.step} loss {smooth:.4f} {time.time() - start:.0f} s")
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()


def train_decoder(pipe: StableDiffusionXLPipeline, run: Run, pixels: np.ndarray, batch: int) -> None:
    """Undo the encoder: squared error in pixels, from latents with a little noise, as a sampler hands them over."""

    def loss_of_step(step: int) -> Tensor:
        rng = np.random.default_rng([2, step])
        rows = np.sort(rng.choice(len(pixels), batch, replace=False))
        target = as_tensor(pixels[rows])
        # Half the rows in exchanged colours, so that colours beyond the world's own are decoded too.
        half = batch // 2
        target[:half] = target[:half, rng.permutation(3)] * rng.choice([-1.0, 1.0])
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            z = pipe.vae.encode(target).latent_dist.mode()
            z += (
                0.15
                * torch.rand(batch, 1, 1, 1, generator=generator)
                * torch.randn(z.shape, generator=generator)
            )
        with torch.autocast("cpu", torch.bfloat16):
            out = pipe.vae.decode(z).sample
        return (out.float() - target).square().mean()

    run.loop("decoder", loss_of_step, save_every=500)


def encode_all(pipe: StableDiffusionXLPipeline, pixels: np.ndarray, path: Path) -> Tensor:
    """Latents of the whole set as float16 (N, 32, 8, 8), kept in `path`."""
    if not path.exists():
        batches = [pixels[i : i + 256] for i in range(0, len(pixels), 256)]
        with torch.no_grad():
            parts = [
                pipe.vae.encode(as_tensor(b)).latent_dist.mode().half() for b in tqdm(batches, "encoding")
            ]
        part = path.with_suffix(".part")
        save_file({"latents": torch.cat(parts).contiguous()}, part)
        part.replace(path)
    return load_file(path)["latents"]


def encode_captions(pipe: StableDiffusionXLPipeline, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Both encoders as SDXL reads them: penultimate states side by side, and the second one's pooled text."""
    ids = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    first = pipe.text_encoder(ids, output_hidden_states=True)
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second[0]


def time_ids(rng: np.random.Generator, batch: int) -> Tensor:
    """SDXL's size conditioning; in a quarter of the rows any original size and crop, so that neither means anything."""
    ids = torch.tensor([RESOLUTION, RESOLUTION, 0, 0, RESOLUTION, RESOLUTION], dtype=torch.float32).repeat(
        batch, 1
    )
    for row in range(batch):
        if rng.random() < 0.25:
            ids[row, :2] = float(rng.integers(RESOLUTION, 4096))
            ids[row, 2:4] = torch.tensor(rng.integers(0, 512, 2), dtype=torch.float32)
    return ids


def train_unet(pipe: StableDiffusionXLPipeline, run: Run, latents: Tensor, seed: int, batch: int) -> None:
    """v-prediction with x0 weight min(SNR + 1, 6): the noisy steps decide the shape and keep their full weight."""
    alphas = pipe.scheduler.alphas_cumprod
    snr = alphas / (1 - alphas)
    weight = (SNR_CAP / (snr + 1)).clamp(max=1.0)

    def loss_of_step(step: int) -> Tensor:
        rng = np.random.default_rng([1, seed, step])
        generator = torch.Generator().manual_seed(step)
        rows = rng.choice(len(latents), batch, replace=False)
        captions = [
            noisy_caption(scene(seed, int(i)), rng) if rng.random() > CAPTION_DROPOUT else "" for i in rows
        ]
        x0 = latents[rows].float()
        # Stratified over the batch: every step sees all noise levels, which halves the variance of the gradient.
        t = (((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch) * len(alphas)).long()
        noise = torch.randn(x0.shape, generator=generator)
        alpha, sigma = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            states, pooled = encode_captions(pipe, captions)
            conditions = {"text_embeds": pooled, "time_ids": time_ids(rng, batch)}
            v = pipe.unet(alpha * x0 + sigma * noise, t, states, added_cond_kwargs=conditions).sample
        error = (v.float() - (alpha * noise - sigma * x0)).square().mean((1, 2, 3))
        return (weight[t] * error).mean()

    run.loop("unet", loss_of_step, save_every=500)


def save(pipe: StableDiffusionXLPipeline, folder: Path) -> None:
    """Weights in float16, under configurations with which every part loads in float32 unless a dtype is given.

    transformers follows the dtype that it notes beside the weights and Diffusers does not: noted as float16, the
    text encoders would not fit the UNet in a plain `from_pretrained(folder)`.
    """
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for name in ("text_encoder", "text_encoder_2"):
        config = getattr(pipe, name).config
        config.dtype = "float32"
        config.save_pretrained(folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["decoder", "unet", "all"], default="all")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("outputs/pretrain"),
        help="where pictures and training state are kept",
    )
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument(
        "--steps",
        type=int,
        default=17_000,
        help="of the UNet; the learning rate anneals over the second half",
    )
    parser.add_argument("--decoder-steps", type=int, default=5_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    pixels = pictures(options.work, options.seed, options.pictures, RESOLUTION, options.threads)
    pipe = blank_pipeline(options.seed)
    write_encoder(pipe.vae, as_tensor(pixels[:2000]))
    pipe.unet.set_attn_processor(
        AttnProcessor()
    )  # fused attention is slower than this one in bfloat16 on a CPU
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.set_attn_implementation("eager")
    decoder = Run(
        options.work / "decoder.safetensors",
        {"post_quant": pipe.vae.post_quant_conv, "decoder": pipe.vae.decoder},
        options.decoder_steps,
        1e-3,
    )
    texts = {"text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    unet = Run(options.work / "unet.safetensors", {"unet": pipe.unet, **texts}, options.steps, options.rate)

    if options.part in ("decoder", "all"):
        train_decoder(pipe, decoder, pixels, batch=16)
    if options.part in ("unet", "all"):
        latents = encode_all(pipe, pixels, options.work / "latents.safetensors")
        train_unet(pipe, unet, latents, options.seed, options.batch)
    decoder.adopt_average()
    unet.adopt_average()
    pipe.unet.set_default_attn_processor()
    save(pipe, BASE)
    size = sum(file.stat().st_size for file in BASE.rglob("*.safetensors"))
    print(f"saved {BASE}: {size / 1e6:.2f} MB of weights")


if __name__ == "__main__":
    main()
