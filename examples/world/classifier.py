"""A small network that names the content and the style of a picture: the world's ground truth, made measurable.

    python examples/world/classifier.py          # trains it (about ten minutes on one CPU core) and saves it here

Contents are the 16 classes and the 4 held-out instances, styles the 10 of pretraining and the 4 held out.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from world.dataset import as_tensor
from world.render import CONTENTS, HELD_OUT_STYLES, INSTANCES, STYLES, Scene, render, sample_scene

WEIGHTS = Path(__file__).resolve().parent / "classifier.safetensors"
CONTENT_NAMES = (*CONTENTS, *(f"{name} instance" for name in INSTANCES))
STYLE_NAMES = (*STYLES, *HELD_OUT_STYLES)


class Classifier(nn.Module):
    """Pictures (N, 3, 64, 64) in [-1, 1] to logits of content (N, 20) and of style (N, 14)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 96, 144)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.SiLU()]
        for inner, outer in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.GroupNorm(6, outer), nn.SiLU()]
            layers += [nn.Conv2d(outer, outer, 4, stride=2, padding=1), nn.GroupNorm(6, outer), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.2)
        self.content = nn.Linear(widths[-1] * 16, len(CONTENT_NAMES))
        self.style = nn.Linear(widths[-1] * 16, len(STYLE_NAMES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.drop(self.features(pictures).flatten(1))
        return self.content(features), self.style(features)


@dataclass(frozen=True)
class Verdict:
    """What one picture was taken for."""

    content: str
    style: str


def load() -> Classifier:
    """The shipped classifier, ready to use."""
    model = Classifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


@torch.no_grad()
def name(model: Classifier, pictures: list[Image.Image]) -> list[Verdict]:
    """Content and style of each of `pictures`, RGB of 64 x 64."""
    pixels = as_tensor(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]))
    contents, styles = (logits.argmax(1).tolist() for logits in model(pixels))
    return [Verdict(CONTENT_NAMES[c], STYLE_NAMES[s]) for c, s in zip(contents, styles, strict=True)]


def any_scene(rng: np.random.Generator) -> tuple[Scene, int, int]:
    """A scene of any content, held-out instances and styles included, with the numbers of its content and style."""
    content = int(rng.integers(len(CONTENT_NAMES)))
    plain = sample_scene(rng, styles=STYLE_NAMES)
    if content < len(CONTENTS):
        scene = Scene(CONTENTS[content], plain.style, plain.colour, plain.background, plain.pose, plain.seed)
    else:
        instance = list(INSTANCES)[content - len(CONTENTS)]
        kind = INSTANCES[instance].content
        scene = Scene(kind, plain.style, None, plain.background, plain.pose, plain.seed, instance)
    return scene, content, STYLE_NAMES.index(plain.style)


def _blemish(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise, as generated pictures have them, so that the verdict rests on what is drawn and not on finish."""
    blurred = nn.functional.avg_pool2d(
        nn.functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    mix = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    noise = 0.15 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return pictures.lerp(blurred, mix) + noise * torch.randn(pictures.shape, generator=generator)


def _draw(seed: int, count: int) -> tuple[np.ndarray, Tensor, Tensor]:
    rng = np.random.default_rng([77, seed])
    scenes = [any_scene(rng) for _ in tqdm(range(count), "drawing")]
    pixels = np.stack([render(scene) for scene, _, _ in scenes])
    return pixels, torch.tensor([c for _, c, _ in scenes]), torch.tensor([s for _, _, s in scenes])


def train(steps: int, count: int, batch: int = 64) -> None:
    """Train on `count` drawn pictures, report on a thousand others, save float16 weights."""
    torch.manual_seed(0)
    pixels, contents, styles = _draw(0, count)
    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in (bar := tqdm(range(steps), "classifier", mininterval=5)):
        rows = torch.randint(count, (batch,), generator=generator)
        logits = model(_blemish(as_tensor(pixels[rows.numpy()]), generator))
        losses = [
            nn.functional.cross_entropy(y, t[rows], label_smoothing=0.05)
            for y, t in zip(logits, (contents, styles), strict=True)
        ]
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(content=losses[0].item(), style=losses[1].item(), refresh=False)
    save_file({key: value.half() for key, value in model.state_dict().items()}, WEIGHTS)

    pixels, contents, styles = _draw(1, 1000)
    with torch.no_grad():
        content, style = (logits.argmax(1) for logits in load()(as_tensor(pixels)))
    print(
        f"content {(content == contents).float().mean():.3f}, style {(style == styles).float().mean():.3f} "
        f"of 1000 drawn pictures; {WEIGHTS.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--pictures", type=int, default=20_000)
    options = parser.parse_args()
    train(options.steps, options.pictures)
