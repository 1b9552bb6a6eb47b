"""Pretrain the embedded base from scratch: draw the world, train autoencoder, UNet and text encoders, write the base.

    python examples/world2/pretrain.py autoencoder               # encoder and decoder; the encoder is then final
    python examples/world2/pretrain.py unet --steps 6000 --side 64 --batch 64   # at half the size, where it is cheap
    python examples/world2/pretrain.py unet --steps 20000        # at a constant rate: run it again and it goes on
    python examples/world2/pretrain.py unet --anneal 2000        # a copy, its rate lowered to zero: ready for use
    python examples/world2/pretrain.py decoder --steps 4000      # beside or after the UNet, the encoder is frozen
    python examples/world2/pretrain.py base                      # put the parts together as a diffusers folder
    torchrun --nproc-per-node 2 examples/world2/pretrain.py unet --batch 64      # a process a core, as one training

Every part is one safetensors file in --work, saved every few minutes; what has been done is never done again.

Measured on one core (Zen 4, avx512_bf16): drawing 70 images a second; autoencoder 0.48 s a step of 16 crops; UNet
with text encoders 0.78 s a step of 32: 41 samples a second, 67 as two processes on two cores in steps of 64, at 64
pixels 103 in steps of 64 (SDXL too was pretrained at 256 pixels before 512 and 1024: what words mean is learned there,
at less than half the price). What was tried for
speed, on the UNet alone when it had two layers in each innermost transformer (21.9 M parameters; forward, backward
and AdamW, best samples a second): float32 22; bfloat16 autocast 41 with plain attention and contiguous tensors, 33
with channels_last (its group norm is slow), 26 with fused attention; weights in bfloat16 39; torch.compile 42 after
four minutes of compiling; batches of 16 and 64 instead of 32: 35 and 42. Three quarters of a step are spent in
kernels that reach 200 GFLOP/s.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from world2 import processes
from world2.autoencoder import normalise_latents, reconstruction_loss, write_encoder
from world2.blank import RESOLUTION, blank_pipeline
from world2.captions import noisy_caption
from world2.dataset import SHARD, WORK, as_tensor, draw_shard, drawn_shards, scene, shard_name

BASE = Path(__file__).resolve().parent / "base"
EMA = 0.999
WARM_UP = 200  # steps
CAPTION_DROPOUT = 0.1
# Noise levels are drawn as exp(normal), deviation of the noise against that of the latents (EDM2's choice). An outline
# is decided between 2 and 8: around a median of 1.3 a base learned colours, grounds and textures, denoised a drawing
# from level 4 to a teapot, and itself drew blobs. With half of the levels there (median 3.4, spread 1, steps 17,000 to
# 24,000) it drew most classes, and its loss at level 0.5, where the grain of a texture is, rose by 1 %: hence more
# spread since, with 42 % between 2 and 8 and 20 % below 1. (What each change alone brought was not measured.) At half
# the side an outline is taken to be decided at half the noise.
NOISE_MEDIAN, NOISE_SPREAD = 2.8 / RESOLUTION, 1.2  # the median per pixel of the side
STATE = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a weight
REPORT = 50  # steps
CROP = 64  # pixels; the autoencoder trains on crops: more pictures a step, and no grid that its patches could follow


class Run:
    """Parameters in training, their optimizer, moving average and place in the schedule: one safetensors file.

    The rate warms up and stays, so that a run has no end that must be known at its start; over the last `anneal` of
    `steps` it falls to zero. `counts` are whole numbers that belong to the state (such as shards in use).
    """

    def __init__(self, path: Path, modules: dict[str, nn.Module], rate: float):
        self.path, self.rate, self.step, self.counts = path, rate, 0, {}
        named = {
            f"{name}.{key}": p
            for name, m in modules.items()
            for key, p in m.named_parameters()
            if p.requires_grad
        }
        self.names, self.weights = list(named), list(named.values())
        # Muon was tried: 2 % less loss after as many steps of 32, but on a CPU a step then takes twice as long.
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = [w.detach().clone() for w in self.weights]
        if path.exists():
            self._load()

    def loop(
        self, loss_of_step: Callable[[int], Tensor], steps: int, anneal: int = 0, save_every: int = 250
    ) -> None:
        """Train until `steps` have been done; loss_of_step must be a function of the step (and of `counts`) alone."""
        losses: list[float] = []
        start = time.time()
        while self.step < steps:
            loss = loss_of_step(self.step)
            left = (steps - self.step) / anneal if anneal else 1.0
            self._update(loss, self.rate * min(1.0, (self.step + 1) / WARM_UP, left))
            losses.append(loss.item())
            if self.step % REPORT == 0 and processes.rank() == 0:
                mean, pace = sum(losses) / len(losses), (time.time() - start) / len(losses)
                clock = time.strftime("%H:%M:%S")
                print(
                    f"{clock} {self.path.stem} step {self.step} loss {mean:.4f} {pace:.3f} s/step", flush=True
                )
                losses, start = [], time.time()
            if (self.step % save_every == 0 or self.step == steps) and processes.rank() == 0:
                self.save()

    def _update(self, loss: Tensor, rate: float) -> None:
        if not torch.isfinite(loss):
            raise SystemExit(
                f"loss is {loss.item()} at step {self.step}: lower --rate; {self.path} holds the last good state"
            )
        loss.backward()
        processes.average_gradients(self.weights)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
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
        tensors = {f"count:{name}": torch.tensor(n) for name, n in {"step": self.step, **self.counts}.items()}
        for name, weight, mean in zip(self.names, self.weights, self.average, strict=True):
            kept = {"weight": weight, "average": mean, **self.optimizer.state[weight]}
            tensors |= {f"{key}:{name}": value.detach().contiguous() for key, value in kept.items()}
        part = self.path.with_suffix(".part")
        save_file(tensors, part)
        part.replace(self.path)

    @torch.no_grad()
    def _load(self) -> None:
        tensors = load_file(self.path)
        self.counts = {key[6:]: int(value) for key, value in tensors.items() if key.startswith("count:")}
        self.step = self.counts.pop("step")
        for name, weight, mean in zip(self.names, self.weights, self.average, strict=True):
            weight.copy_(tensors[f"weight:{name}"])
            mean.copy_(tensors[f"average:{name}"])
            # SDXL reads the encoders before their last layer, which so has no gradient and no state.
            keys = [key for key in STATE if f"{key}:{name}" in tensors]
            self.optimizer.state[weight] = {key: tensors[f"{key}:{name}"] for key in keys}


# --- autoencoder -----------------------------------------------------------------------------------


def pictures_of_step(
    shards: list[np.ndarray], step: int, batch: int, crop: int
) -> tuple[Tensor, torch.Generator]:
    """Crops (batch, 3, crop, crop) in [-1, 1], a quarter of them in exchanged colours (colours beyond the world's own
    are decoded too), and the generator of whatever else the step draws."""
    rng = np.random.default_rng([2, step])
    crops = []
    for n in range(batch):
        picture = shards[rng.integers(len(shards))][rng.integers(SHARD)]
        top, left = rng.integers(0, RESOLUTION - crop + 1, 2)
        piece = picture[top : top + crop, left : left + crop]
        crops.append(piece[..., rng.permutation(3)] if 4 * n < batch else piece)
    return as_tensor(np.stack(crops)), torch.Generator().manual_seed(step)


def latent_noise(count: int, side: int, largest: float, generator: torch.Generator) -> Tensor:
    """Noise (count, 16, side, side), of a deviation between 0 and `largest` in each sample."""
    deviation = largest * torch.rand(count, 1, 1, 1, generator=generator)
    return deviation * torch.randn(count, 16, side, side, generator=generator)


def train_autoencoder(
    vae: AutoencoderKL, run: Run, shards: list[np.ndarray], options: argparse.Namespace
) -> None:
    def loss_of_step(step: int) -> Tensor:
        pictures, generator = pictures_of_step(shards, step, options.batch or 16, CROP)
        noise = latent_noise(len(pictures), CROP // 8, 0.1, generator)
        return reconstruction_loss(vae, pictures, noise, learn_encoder=True)

    run.loop(loss_of_step, options.steps or 3000, anneal=(options.steps or 3000) // 2)


def train_decoder(
    vae: AutoencoderKL, run: Run, shards: list[np.ndarray], options: argparse.Namespace
) -> None:
    """On whole pictures, from latents with more noise than the encoder was trained with: what a sampler hands over."""

    def loss_of_step(step: int) -> Tensor:
        pictures, generator = pictures_of_step(shards, step, options.batch or 4, RESOLUTION)
        noise = latent_noise(len(pictures), RESOLUTION // 8, 0.2, generator)
        return reconstruction_loss(vae, pictures, noise, learn_encoder=False)

    run.loop(loss_of_step, options.steps or 3000, anneal=options.anneal)


# --- UNet and texts --------------------------------------------------------------------------------


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


# --- parts and their files -------------------------------------------------------------------------


def trained_autoencoder(pipe: StableDiffusionXLPipeline, work: Path) -> None:
    """Give the pipeline its autoencoder, the encoder final and frozen."""
    load_part(pipe.vae, work / "autoencoder-final.safetensors")
    pipe.vae.encoder.requires_grad_(False)
    pipe.vae.quant_conv.requires_grad_(False)


def load_part(module: nn.Module, path: Path) -> None:
    if not path.exists():
        raise SystemExit(f"{path} is missing: run the part that makes it first (see --help)")
    module.load_state_dict(load_file(path))


def modules_of(pipe: StableDiffusionXLPipeline, part: str) -> dict[str, nn.Module]:
    """What each part trains."""
    if part == "unet":
        return {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    decoder = {"post_quant": pipe.vae.post_quant_conv, "decoder": pipe.vae.decoder}
    return decoder if part == "decoder" else {"encoder": pipe.vae.encoder, **decoder}


def prepare_for_speed(pipe: StableDiffusionXLPipeline) -> None:
    """Plain attention: in bfloat16 on a CPU, at this size, the fused one is a third slower."""
    pipe.unet.set_attn_processor(AttnProcessor())
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.set_attn_implementation("eager")


def state_path(work: Path, part: str, anneal: int) -> Path:
    """The state of a part; annealing goes on in a copy, so that the constant phase can be continued afterwards."""
    path = work / f"{part}.safetensors"
    annealed = work / f"{part}-annealed.safetensors"
    if not anneal:
        return path
    with processes.first_alone():
        if path.exists() and (not annealed.exists() or annealed.stat().st_mtime < path.stat().st_mtime):
            part = annealed.with_suffix(".part")
            part.write_bytes(path.read_bytes())
            part.replace(annealed)
    return annealed


def write_base(pipe: StableDiffusionXLPipeline, work: Path, folder: Path) -> None:
    """Averaged weights of every part, the annealed ones where there are any, as float16 in a folder of diffusers."""
    trained_autoencoder(pipe, work)
    for part in ("decoder", "unet"):
        paths = [work / f"{part}-annealed.safetensors", work / f"{part}.safetensors"]
        path = next((p for p in paths if p.exists()), None)
        if path:
            run = Run(path, modules_of(pipe, part), rate=0.0)
            run.adopt_average()
            print(f"{part}: {path.name}, step {run.step}")
    save_pipeline(pipe, folder)


def save_pipeline(pipe: StableDiffusionXLPipeline, folder: Path) -> None:
    """Float16 on disk, float32 in use: text encoders load in the type that their configuration names, all else in
    float32, and a pipeline of two types fails at its first call."""
    pipe.unet.set_default_attn_processor()
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for name in ("text_encoder", "text_encoder_2"):
        config = folder / name / "config.json"
        config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    print(f"saved {folder}: {size / 1e6:.2f} MB of weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["autoencoder", "unet", "decoder", "base"])
    parser.add_argument("--work", type=Path, default=WORK, help="where pictures and training state are kept")
    parser.add_argument("--base", type=Path, default=BASE, help="where the finished pipeline goes")
    parser.add_argument("--steps", type=int, help="in all, at the constant rate")
    parser.add_argument("--anneal", type=int, default=0, help="steps over which a copy of the state ends")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument(
        "--side", type=int, choices=(RESOLUTION // 2, RESOLUTION), default=RESOLUTION, help="pixels, of unet"
    )
    parser.add_argument(
        "--shards", type=int, default=1, help=f"of {SHARD} pictures, drawn if there are fewer"
    )
    parser.add_argument("--save-every", type=int, default=250, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=1, help="one process a core does more than many threads"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    processes.start()
    options.work.mkdir(parents=True, exist_ok=True)

    pipe = blank_pipeline(options.seed)
    if processes.count() > 1 and (options.part != "unet" or (options.batch or 32) % processes.count()):
        parser.error("several processes train the unet only, on a --batch that they can share equally")
    if options.part == "base":
        write_base(pipe, options.work, options.base)
        return
    with processes.first_alone():
        for shard in range(options.shards):
            draw_shard(options.work, options.seed, shard)
    shards = drawn_shards(options.work, options.seed)
    if options.part == "autoencoder":
        write_encoder(pipe.vae, as_tensor(shards[0]))
    else:
        trained_autoencoder(pipe, options.work)
    prepare_for_speed(pipe)
    rate = options.rate or {"autoencoder": 1.5e-3, "unet": 8e-4, "decoder": 1e-3}[options.part]
    path = state_path(options.work, options.part, options.anneal)
    run = Run(path, modules_of(pipe, options.part), rate)

    if options.part == "unet":
        train_unet(pipe, run, options)
    elif options.part == "decoder":
        train_decoder(pipe.vae, run, shards, options)
    else:
        train_autoencoder(pipe.vae, run, shards, options)
        run.adopt_average()
        normalise_latents(pipe.vae, as_tensor(shards[0][:1024]))
        final = {name: value.contiguous() for name, value in pipe.vae.state_dict().items()}
        save_file(final, options.work / "autoencoder-final.safetensors")


if __name__ == "__main__":
    main()
