"""Measure the embedded base: how well its autoencoder reconstructs, what it draws, how fast, and whether as asked.

python examples/world/check_base.py --sheet sheet.png       # classes down, style families across
python examples/world/check_base.py --sheet sheet.png --numbers examples/world/base.json    # those that ship
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from world.captions import caption
from world.check_encoders import ENCODERS, load
from world.contents import CLASSES
from world.dataset import as_tensor
from world.judge import JUDGES, agreement, labels, load_judge
from world.likeness import shows
from world.members import LABELS
from world.members import labels as names
from world.scenes import Scene, render, sample_scene
from world.spaces import name
from world.styles import FAMILIES

BASE = Path(__file__).resolve().parent / "base"
STEPS, GUIDANCE, BATCH = 25, 4.0, 32
TARGET_PSNR = 30.0  # decibels
HIDDEN_WITH = {"main": "colour", "second_colour": "colour", "ground": "background"}  # aspects of the judges


def grid_scenes(contents: Sequence[str], families: Sequence[str], seed: int = 2025) -> list[Scene]:
    """A scene of every content in every family, all else drawn at random."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, contents=(c,), families=(f,)) for c in contents for f in families]


def sample(
    pipe: StableDiffusionXLPipeline, prompts: list[str], steps: int = STEPS, seed: int = 0
) -> list[Image.Image]:
    """One picture a prompt; picture i starts from noise of seed + i."""
    pictures: list[Image.Image] = []
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(batch))]
        pictures += pipe(
            batch, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generators
        ).images
    return pictures


@torch.no_grad()
def reconstructed(pipe: StableDiffusionXLPipeline, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, 128, 128) in [-1, 1] as they come back from the autoencoder."""
    latents = [pipe.vae.encode(part).latent_dist.mode() for part in pictures.split(BATCH)]
    return torch.cat([pipe.vae.decode(part).sample.clamp(-1, 1) for part in latents])


def psnr(pipe: StableDiffusionXLPipeline, scenes: Sequence[Scene]) -> dict[str, float]:
    """Mean peak signal-to-noise ratio (dB) of the autoencoder over drawings of `scenes`, by family and in all."""
    pictures = as_tensor(np.stack([render(scene) for scene in scenes]))
    value = -10 * ((reconstructed(pipe, pictures) - pictures) / 2).square().mean((1, 2, 3)).log10()
    families = np.array([scene.style.family for scene in scenes])
    of = {family: value[families == family].mean().item() for family in dict.fromkeys(families.tolist())}
    return {"all": value.mean().item(), **dict(sorted(of.items(), key=lambda item: item[1]))}


def obeyed(
    judges: Path, pictures: Sequence[Image.Image | np.ndarray], scenes: Sequence[Scene]
) -> dict[str, dict[str, float]]:
    """By judge and aspect, the share of the pictures that it names as their scenes' captions ask, of those whose style
    lets it be seen."""
    tensor = as_tensor(np.stack([np.asarray(picture) for picture in pictures]))
    asked = [
        {aspect: word for aspect, word in labels(s).items() if shows(s, HIDDEN_WITH.get(aspect, aspect))}
        for s in scenes
    ]
    files = sorted(judges.glob("*.safetensors"))
    return {file.stem: agreement(load_judge(file).name(tensor), asked) for file in files}


def named(
    pictures: Sequence[Image.Image | np.ndarray], scenes: Sequence[Scene]
) -> dict[str, dict[str, float]]:
    """By aspect, the share of the pictures in which the encoders that ship see what was asked for, of those whose style
    lets it be seen: in all, and from the least on by class, or by style family for all else."""
    tensor = as_tensor(np.stack([np.asarray(picture) for picture in pictures]))
    found: dict[str, dict[str, float]] = {}
    for aspect, words in LABELS.items():
        seen = [words[number].removesuffix(" instance") for number in name(load(ENCODERS, aspect), tensor)]
        asked = [(word, scene) for word, scene in zip(seen, scenes, strict=True) if shows(scene, aspect)]
        right = np.array([word == names(scene)[aspect] for word, scene in asked])
        groups = np.array([s.content.kind if aspect == "content" else s.style.family for _, s in asked])
        shares = {group: right[groups == group].mean() for group in np.unique(groups).tolist()}
        found[aspect] = {"all": right.mean(), **dict(sorted(shares.items(), key=lambda item: item[1]))}
    return {
        aspect: {key: round(float(share), 4) for key, share in row.items()} for aspect, row in found.items()
    }


def sheet(pictures: Sequence[Image.Image | np.ndarray], columns: int) -> Image.Image:
    """Pictures of one size in rows of `columns`."""
    arrays = [np.asarray(picture) for picture in pictures]
    rows = [np.concatenate(arrays[i : i + columns], 1) for i in range(0, len(arrays), columns)]
    return Image.fromarray(np.concatenate(rows, 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--sheet", type=Path, help="where to save the contact sheet; none is drawn without")
    parser.add_argument("--truth", type=Path, help="also save the sheet as the world draws it")
    parser.add_argument("--contents", nargs="+", default=list(CLASSES), metavar="CLASS")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="who says what the sheet's pictures show")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pictures", type=int, default=192, help="on which the autoencoder is measured")
    parser.add_argument("--numbers", type=Path, help="where to keep what is printed")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    pipe = StableDiffusionXLPipeline.from_pretrained(options.base)
    pipe.set_progress_bar_config(disable=True)
    result: dict[str, object] = {}
    if options.pictures:
        rng = np.random.default_rng(4242)
        result["psnr_db"] = psnr(pipe, [sample_scene(rng) for _ in range(options.pictures)])
    if options.sheet:
        scenes = grid_scenes(options.contents, options.families)
        start = time.time()
        pictures = sample(pipe, [caption(scene) for scene in scenes], options.steps)
        result["seconds_per_picture"] = (time.time() - start) / len(pictures)
        sheet(pictures, len(options.families)).save(options.sheet)
        drawn = [render(scene) for scene in scenes]
        result["named_as_asked"] = named(pictures, scenes)
        result["named_where_the_world_draws"] = named(drawn, scenes)
        result["as_asked"] = obeyed(options.judges, pictures, scenes)
        result["as_asked_where_the_world_draws"] = obeyed(
            options.judges, drawn, scenes
        )  # no base can do better
        if options.truth:
            sheet(drawn, len(options.families)).save(options.truth)
    text = json.dumps(result, indent=2)
    print(text)
    if options.numbers:
        options.numbers.write_text(text + "\n")
    return 0 if not options.pictures or result["psnr_db"]["all"] >= TARGET_PSNR else 1


if __name__ == "__main__":
    raise SystemExit(main())
