"""A judge of drawn and generated pictures: class, colours, marking, accessory, second object, ground, style family.

    python examples/world/judge.py --kind resnet     # trains one of two on the shards of --work, then measures it
    python examples/world/judge.py --kind convnext   # the other: another architecture, other augmentations and seed

Two of them, built apart, because a fault of one shows where they disagree. Each is one safetensors file in --judges;
a training that was stopped goes on from its state in --work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, pad
from torch.optim.swa_utils import update_bn
from tqdm import tqdm
from transformers import ConvNextConfig, ConvNextModel, ResNetConfig, ResNetModel

from world.contents import CLASSES, COLOURS
from world.contents.markings import KINDS as MARKINGS
from world.dataset import SHARD, WORK, as_tensor, drawn_shards, pictures_of, scene
from world.extras import ACCESSORIES, SECONDS
from world.grounds import KINDS as GROUNDS
from world.run import Run
from world.scenes import Scene
from world.styles import FAMILIES

JUDGES = Path(__file__).resolve().parent / "judges"
NONE = "none"
NAMES: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "main": tuple(COLOURS),
    "second_colour": tuple(COLOURS),
    "marking": (NONE, *MARKINGS),
    "accessory": (NONE, *ACCESSORIES),
    "second": (NONE, *SECONDS),
    "ground": GROUNDS,
    "style": tuple(FAMILIES),
}
RATE = 2e-3
SETTLING = 32  # batches
SEEDS = {"resnet": 1, "convnext": 2}
WIDTHS = {"resnet": 192, "convnext": 256}  # of what the heads read


def labels(scene: Scene) -> dict[str, str]:
    """What a judge is to say of a drawing of the scene, by aspect."""
    content = scene.content
    return {
        "class": content.kind,
        "main": content.main,
        "second_colour": content.second,
        "marking": content.marking.kind if content.marking else NONE,
        "accessory": scene.accessory.kind if scene.accessory else NONE,
        "second": scene.second.kind if scene.second else NONE,
        "ground": scene.ground.kind,
        "style": scene.style.family,
    }


class Judge(nn.Module):
    """Pictures (N, 3, 128, 128) in [-1, 1] to logits (N, names) by aspect."""

    def __init__(self, kind: str):
        super().__init__()
        self.trunk = _resnet() if kind == "resnet" else _convnext()
        width = WIDTHS[kind]
        self.heads = nn.ModuleDict({aspect: nn.Linear(width, len(names)) for aspect, names in NAMES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.trunk(pixel_values=pictures).last_hidden_state.mean((2, 3))
        return {aspect: head(features) for aspect, head in self.heads.items()}

    @torch.no_grad()
    def name(self, pictures: Tensor, batch: int = 64) -> dict[str, list[str]]:
        """What it says of each picture, by aspect."""
        found: dict[str, list[str]] = {aspect: [] for aspect in NAMES}
        for part in pictures.split(batch):
            for aspect, logits in self.eval()(part).items():
                found[aspect] += [NAMES[aspect][i] for i in logits.argmax(1).tolist()]
        return found


def _resnet() -> nn.Module:
    return ResNetModel(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_type="basic"
        )
    )


def _convnext() -> nn.Module:
    """A ViT instead named 68 % of the classes after 5,000 steps: from so few images convolutions learn more."""
    return ConvNextModel(
        ConvNextConfig(
            patch_size=4, hidden_sizes=[48, 96, 192, 256], depths=[1, 1, 3, 1], layer_scale_init_value=0.0
        )
    )


# --- what generated pictures have and drawn ones have not ------------------------------------------------


def soften(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts, blur, contrast, stains and noise: what is drawn is to count, not its finish."""
    moved = _shifted(pictures, 6, generator)
    blurred = avg_pool2d(pad(moved, (1,) * 4, mode="replicate"), 3, stride=1)
    mix, stain, noise, gain = torch.rand(4, len(pictures), 1, 1, 1, generator=generator)
    stains = torch.randn(len(pictures), 3, 8, 8, generator=generator)
    out = moved.lerp(blurred, mix) * (0.93 + 0.14 * gain)
    out = out + 0.12 * stain * interpolate(stains, size=out.shape[2:], mode="bilinear")
    return out + 0.12 * noise * torch.randn(out.shape, generator=generator)


def coarsen(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts, a loss of resolution by up to two, brightness and hue that drift, and patches that are missing."""
    moved = _shifted(pictures, 10, generator)
    small = interpolate(avg_pool2d(moved, 2), size=moved.shape[2:], mode="bilinear")
    mix = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    drift = 0.08 * torch.randn(len(pictures), 3, 1, 1, generator=generator)
    grey = torch.rand(len(pictures), 1, 16, 16, generator=generator) < 0.04
    out = moved.lerp(small, mix) + drift
    return out.masked_fill(interpolate(grey.float(), size=out.shape[2:]).bool(), 0.0)


def _shifted(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:
    _, _, height, width = pictures.shape
    padded = pad(pictures, (most,) * 4, mode="replicate")
    corners = torch.randint(2 * most + 1, (len(pictures), 2), generator=generator).tolist()
    return torch.stack(
        [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, corners, strict=True)]
    )


AUGMENT: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {"resnet": soften, "convnext": coarsen}


# --- training and measuring ------------------------------------------------------------------------


def targets_of(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Numbers (N,) of the names by aspect."""
    said = [labels(each) for each in scenes]
    return {
        aspect: torch.tensor([names.index(one[aspect]) for one in said]) for aspect, names in NAMES.items()
    }


def train(kind: str, work: Path, shards: Sequence[np.ndarray], seed: int, steps: int, batch: int) -> Judge:
    """On the shards; its state is kept in `work`, and the same call goes on with it."""
    torch.manual_seed(SEEDS[kind])
    judge = Judge(kind).train()
    count = len(shards) * SHARD
    targets = targets_of([scene(seed, i) for i in tqdm(range(count), "labels", mininterval=10)])

    def pictures_of_step(step: int) -> tuple[Tensor, np.ndarray]:
        rows = np.random.default_rng([8, SEEDS[kind], step]).integers(count, size=batch)
        return AUGMENT[kind](pictures_of(shards, rows), torch.Generator().manual_seed(step)), rows

    def loss_of_step(step: int) -> Tensor:
        pictures, rows = pictures_of_step(step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(pictures)
        return torch.stack(
            [cross_entropy(logits[aspect].float(), targets[aspect][rows]) for aspect in NAMES]
        ).sum()

    run = Run(work / f"judge-{kind}.safetensors", {"judge": judge}, RATE)
    run.loop(loss_of_step, steps, anneal=steps // 2)
    run.adopt_average()
    # Statistics of the batch norms belong to the weights of the last steps, not to their average.
    update_bn([pictures_of_step(step)[0] for step in range(SETTLING)], judge)
    return judge


def agreement(said: Mapping[str, Sequence[str]], asked: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Share of pictures named as asked, by aspect; an aspect that some leave out is asked of the others."""
    found = {}
    for aspect, names in said.items():
        right = [name == one[aspect] for name, one in zip(names, asked, strict=True) if aspect in one]
        if right:
            found[aspect] = sum(right) / len(right)
    return found


def load_judge(path: Path) -> Judge:
    """A judge's file, float16 on disk; its name says which of the two it is."""
    judge = Judge(path.stem).eval()
    judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=list(SEEDS), required=True)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--judges", type=Path, default=JUDGES)
    parser.add_argument("--seed", type=int, default=0, help="of the shards")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    *shards, unseen = drawn_shards(options.work, options.seed)
    judge = train(options.kind, options.work, shards, options.seed, options.steps, options.batch)
    options.judges.mkdir(parents=True, exist_ok=True)
    state = {key: value.half().contiguous() for key, value in judge.state_dict().items()}
    save_file(state, options.judges / f"{options.kind}.safetensors")
    judge = load_judge(options.judges / f"{options.kind}.safetensors")
    first = len(shards) * SHARD
    asked = [labels(scene(options.seed, first + i)) for i in range(SHARD)]
    print(json.dumps(agreement(judge.name(as_tensor(unseen)), asked), indent=1))


if __name__ == "__main__":
    main()
