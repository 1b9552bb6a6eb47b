"""Measure the embedded base: what its pictures are taken for, and how well its autoencoder reconstructs.

python examples/world/check_base.py          # exits 1 when a target is missed
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from world import classifier
from world.dataset import as_tensor
from world.render import CONTENTS, STYLES, caption, render, sample_scene

BASE = Path(__file__).resolve().parent / "base"
STEPS, GUIDANCE, BATCH = 25, 4.0, 40
TARGET_ACCURACY, TARGET_PSNR = 0.90, 27.0  # top-1 over the grid; decibels


def grid_scenes(repeats: int) -> list:
    """`repeats` scenes of every pretraining content in every pretraining style, colours and grounds drawn at random."""
    rng = np.random.default_rng(2025)
    return [
        sample_scene(rng, contents=(content,), styles=(style,))
        for _ in range(repeats)
        for content in CONTENTS
        for style in STYLES
    ]


def sample(pipe: StableDiffusionXLPipeline, prompts: list[str], seed: int = 0) -> list[Image.Image]:
    """One picture a prompt; picture i starts from noise of seed + i."""
    pictures: list[Image.Image] = []
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(batch))]
        pictures += pipe(
            batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators
        ).images
    return pictures


@torch.no_grad()
def psnr(pipe: StableDiffusionXLPipeline, count: int = 256) -> float:
    """Mean peak signal-to-noise ratio (dB) of the autoencoder over drawn pictures that pretraining did not see."""
    rng = np.random.default_rng(4242)
    pictures = as_tensor(np.stack([render(sample_scene(rng)) for _ in range(count)]))
    out = pipe.vae.decode(pipe.vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    error = ((out - pictures) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument(
        "--repeats", type=int, default=2, help="pictures of each of the 160 content-style pairs"
    )
    parser.add_argument("--sheet", type=Path, help="also save a contact sheet: contents down, styles across")
    options = parser.parse_args()

    pipe = StableDiffusionXLPipeline.from_pretrained(options.base, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    scenes = grid_scenes(options.repeats)
    pictures = sample(pipe, [caption(scene) for scene in scenes])
    verdicts = classifier.name(classifier.load(), pictures)
    content = np.array([v.content == s.content for v, s in zip(verdicts, scenes, strict=True)])
    style = np.array([v.style == s.style for v, s in zip(verdicts, scenes, strict=True)])
    result = {
        "pictures": len(scenes),
        "content_top1": content.mean(),
        "style_top1": style.mean(),
        "psnr_db": psnr(pipe),
    }
    print(json.dumps(result, indent=2))
    for wanted, hits, names in (("content", content, CONTENTS), ("style", style, STYLES)):
        rates = {n: hits[[getattr(s, wanted) == n for s in scenes]].mean() for n in names}
        print(
            f"{wanted}: "
            + ", ".join(f"{n} {rate:.0%}" for n, rate in sorted(rates.items(), key=lambda item: item[1]))
        )
    if options.sheet:
        _sheet(pictures[: len(CONTENTS) * len(STYLES)]).save(options.sheet)
    met = (
        min(result["content_top1"], result["style_top1"]) >= TARGET_ACCURACY
        and result["psnr_db"] >= TARGET_PSNR
    )
    print("targets met" if met else f"target missed: {TARGET_ACCURACY:.0%} top-1 each, {TARGET_PSNR} dB")
    return 0 if met else 1


def _sheet(pictures: list[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(STYLES), height * len(CONTENTS)))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % len(STYLES) * width, i // len(STYLES) * height))
    return sheet


if __name__ == "__main__":
    raise SystemExit(main())
