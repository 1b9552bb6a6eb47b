"""The job behind `b4m generate` and infer.py: every prompt with every seed, as PNG files and a grid."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path

from PIL import Image

from ..config.sampling import GenerateConfig
from ..core.storage import Taken
from .grid import grid
from .prompts import say_notes
from .sample import attach_for, drawn_with, open_for, sample_with, save_png

NUMBER = re.compile(r"(\d+)_seed\d+\.png")  # of an image of an earlier call


@dataclass(frozen=True)
class Drawn:
    """One image, and what it was made of. scores: by name, where images were compared."""

    image: Image.Image
    prompt: str
    seed: int
    scores: Mapping[str, float] = field(default_factory=dict)


Choose = Callable[[Sequence[Drawn]], list[Drawn]]


def generate(config: GenerateConfig, choose: Choose | None = None) -> list[Path]:
    """Every prompt with every seed -> PNG files with their settings inside; their paths, the grid's last.

    choose: which of them are kept, a prompt's images side by side and equally many of each.
    """
    if (config.best is None) != (choose is None):
        raise ValueError("--best goes with a choice")  # which knows extractors, from a floor above
    drawn = draw(config)
    return write(config, choose(drawn) if choose else drawn)


def draw(config: GenerateConfig) -> list[Drawn]:
    """Every prompt with every seed, a prompt's images side by side."""
    say_notes([*config.prompts, config.negative_prompt])
    backbone = open_for(config)
    attach_for(backbone, config)
    asked = list(product(config.prompts, config.seeds))
    images = sample_with(backbone, config, *map(list, zip(*asked, strict=True)))
    return [Drawn(image, *each) for image, each in zip(images, asked, strict=True)]


def write(config: GenerateConfig, drawn: Sequence[Drawn]) -> list[Path]:
    """Images into the folder of `config`, numbered on from those that are there; the paths, the grid's last."""
    folder = Path(config.output_dir)
    first = 0 if config.overwrite else _next_number(folder)
    paths = []
    for number, each in enumerate(drawn, start=first):
        scores = {f"{name}_alignment": f"{score:.4f}" for name, score in each.scores.items()}
        facts = {"prompt": each.prompt, "seed": str(each.seed), **scores, **drawn_with(config)}
        names = (f"{free:03d}_seed{each.seed}.png" for free in count(number))
        paths.append(_save(folder, names, each.image, facts, config.overwrite))
    if config.grid:
        columns = len(drawn) // len(config.prompts)
        labels = [f"best {n + 1}" if config.best else f"seed {drawn[n].seed}" for n in range(columns)]
        sheet = grid([each.image for each in drawn], columns, config.prompts, labels)
        names = (f"grid_{free:03d}.png" if free else "grid.png" for free in count(first))
        paths.append(_save(folder, names, sheet, drawn_with(config), config.overwrite))
    return paths


def _save(
    folder: Path, names: Iterator[str], image: Image.Image, facts: dict[str, str], overwrite: bool
) -> Path:
    """Under the first of `names` that nobody has taken, another process neither."""
    for path in (folder / name for name in names):
        with suppress(Taken):
            save_png(path, image, facts, replace=overwrite)
            return path
    raise AssertionError("names never end")


def _next_number(folder: Path) -> int:
    """One more than the last of the images there."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = [int(found[1]) for name in names if (found := NUMBER.fullmatch(name))]
    return max(numbers, default=-1) + 1
