"""Pretrain the embedded base from scratch: draw the world, train autoencoder, UNet and text encoders, write the base.

    python examples/world/pretrain.py autoencoder --side 64     # encoder and decoder; the encoder is then final
    python examples/world/pretrain.py unet --steps 6000 --side 64 --batch 64   # at half the size, where it is cheap
    python examples/world/pretrain.py unet --steps 20000        # at a constant rate: run it again and it goes on
    python examples/world/pretrain.py unet --anneal 2000        # a copy, its rate lowered to zero: ready for use
    python examples/world/pretrain.py decoder --steps 4000      # after the UNet, on what it draws; encoder frozen
    python examples/world/pretrain.py base                      # put the parts together as a diffusers folder
    torchrun --nproc-per-node 2 -- examples/world/pretrain.py unet --batch 64   # a process a core, as one training

Every part is one safetensors file in --work, saved every few minutes; what has been done is never done again.

Measured on one core (Zen 4, avx512_bf16): drawing 70 images a second; autoencoder 0.48 s a step of 16 crops; UNet
with text encoders 0.78 s a step of 32: 41 samples a second, 67 as two processes on two cores in steps of 64, at 64
pixels 103 in steps of 64, all with AdamW; with Muon 121 as two processes in steps of 192, on a faster day (SDXL too
was pretrained at 256 pixels before 512 and 1024: what words mean is learned there, at less than half the price). What
was tried for
speed, on the UNet alone when it had two layers in each innermost transformer (21.9 M parameters; forward, backward
and AdamW, best samples a second): float32 22; bfloat16 autocast 41 with plain attention and contiguous tensors, 33
with channels_last (its group norm is slow), 26 with fused attention; weights in bfloat16 39; torch.compile 42 after
four minutes of compiling; batches of 16 and 64 instead of 32: 35 and 42. Three quarters of a step are spent in
kernels that reach 200 GFLOP/s.

On an H100 beside 15 processes that drew (45 pictures a second each): autoencoder 57 ms a step of 128 whole pictures,
UNet 70 ms a step of 512, all of it launching kernels, and 141 ms of 2048; torch.compile won nothing and took 80 s. With
PyTorch's fused attention the gradients of the UNet were no longer finite after 340 steps of 2048 at 1e-3 (of 512 at
1.2e-3 after 200 to 400), while its losses were, and so are the gradients of the same weights on a CPU. Why was not
found; attention is plain here on any device: 4,109 steps of 2048 at 1.2e-3 on an H200, every gradient finite. There a
step of the UNet took 125 ms of 1024 (launching kernels) and 141 ms of 2048; 132 with norms in bfloat16, and no less
with channels_last; with Muon, matrices of one shape together, about 160.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import nn

from world import processes
from world.autoencoder import normalise_latents, write_encoder
from world.blank import RESOLUTION, blank_pipeline
from world.dataset import SHARD, WORK, as_tensor, draw_shard, drawn_shards
from world.pretrain_autoencoder import train_autoencoder, train_decoder
from world.pretrain_unet import train_unet
from world.run import Run

BASE = Path(__file__).resolve().parent / "base"


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


def adopt(pipe: StableDiffusionXLPipeline, work: Path, part: str) -> None:
    """Give the pipeline the averaged weights of a part, the annealed ones where there are any."""
    paths = [work / f"{part}-annealed.safetensors", work / f"{part}.safetensors"]
    path = next((p for p in paths if p.exists()), None)
    if path is None:
        raise SystemExit(f"{paths[1]} is missing: run the part that makes it first (see --help)")
    run = Run(path, modules_of(pipe, part), rate=0.0)
    run.adopt_average()
    print(f"{part}: {path.name}, step {run.step}", flush=True)


def write_base(pipe: StableDiffusionXLPipeline, work: Path, folder: Path) -> None:
    """Averaged weights of every part as float16 in a folder of diffusers."""
    trained_autoencoder(pipe, work)
    for part in ("decoder", "unet"):
        adopt(pipe, work, part)
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
    parser.add_argument(
        "--start", type=Path, help="a finished pipeline to go on from, where there is no state"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, help="in all, at the constant rate")
    parser.add_argument("--anneal", type=int, default=0, help="steps over which a copy of the state ends")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument(
        "--side", type=int, choices=(RESOLUTION // 2, RESOLUTION), default=RESOLUTION, help="pixels"
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

    try:
        device = torch.empty(0, device=options.device).device
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {options.device}: {str(error).splitlines()[0]}")
    if options.start and not (options.start / "model_index.json").is_file():
        parser.error(
            f"--start {options.start}: expected the folder of a finished pipeline, with a model_index.json"
        )
    pipe = (
        StableDiffusionXLPipeline.from_pretrained(options.start)
        if options.start
        else blank_pipeline(options.seed)
    )
    pipe.to(device)
    if processes.count() > 1 and (options.part != "unet" or (options.batch or 32) % processes.count()):
        parser.error("several processes train the unet only, on a --batch that they can share equally")
    if options.part == "base":
        write_base(pipe, options.work, options.base)
        return
    with processes.first_alone():
        for shard in range(options.shards):
            draw_shard(options.work, options.seed, shard)
    shards = drawn_shards(options.work, options.seed)
    if options.part != "autoencoder":
        trained_autoencoder(pipe, options.work)
    elif options.start:
        pipe.vae.quant_conv.requires_grad_(False)
    else:
        write_encoder(pipe.vae, as_tensor(shards[0]))
    prepare_for_speed(pipe)
    rate = options.rate or {"autoencoder": 1.5e-3, "unet": 8e-4, "decoder": 1e-3}[options.part]
    path = state_path(options.work, options.part, options.anneal)
    if options.part == "decoder":
        adopt(pipe, options.work, "unet")
    run = Run(path, modules_of(pipe, options.part), rate, muon=options.part == "unet")

    if options.part == "unet":
        train_unet(pipe, run, options)
    elif options.part == "decoder":
        train_decoder(pipe, run, shards, options)
    else:
        train_autoencoder(pipe.vae, run, shards, options)
        run.adopt_average()
        normalise_latents(pipe.vae, as_tensor(shards[0][:1024], options.device))
        final = {name: value.cpu().contiguous() for name, value in pipe.vae.state_dict().items()}
        save_file(final, options.work / "autoencoder-final.safetensors")


if __name__ == "__main__":
    main()
