"""The job behind `b4m generate` and infer.py: every prompt with every seed, as PNG files and a grid."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from PIL import Image

from ..config.sampling import GenerateConfig
from .attach import attach
from .grid import grid
from .sample import drawn_with, open_for, sample_with, save_png


def generate(config: GenerateConfig) -> list[Path]:
    """Every prompt with every seed -> PNG files with their settings inside; their paths, the grid's last."""
    return write(config, draw(config))


def draw(config: GenerateConfig) -> list[Image.Image]:
    """Every prompt with every seed, a prompt's images side by side."""
    backbone = open_for(config)
    attach(backbone, config.content_file, config.style_file, config.lora_file, config.strict)
    asked = list(product(config.prompts, config.seeds))
    return sample_with(backbone, config, [prompt for prompt, _ in asked], [seed for _, seed in asked])


def write(config: GenerateConfig, images: Sequence[Image.Image]) -> list[Path]:
    """What `draw` made, into the folder of `config`; the paths, the grid's last."""
    folder = Path(config.output_dir)
    paths = []
    asked = product(config.prompts, config.seeds)
    for index, (image, (prompt, seed)) in enumerate(zip(images, asked, strict=True)):
        paths.append(folder / f"{index:03d}_seed{seed}.png")
        save_png(paths[-1], image, _facts(config, prompt, seed))
    if config.grid:
        paths.append(folder / "grid.png")
        labels = [f"seed {seed}" for seed in config.seeds]
        save_png(paths[-1], grid(images, len(config.seeds), config.prompts, labels), _facts(config))
    return paths


def _facts(config: GenerateConfig, prompt: str | None = None, seed: int | None = None) -> dict[str, str]:
    """What a image was made with, for its PNG text."""
    facts = {} if prompt is None else {"prompt": prompt, "seed": str(seed)}
    return {**facts, **drawn_with(config)}
