"""The job behind `b4m generate` and infer.py: every prompt with every seed, as PNG files and a grid."""

from pathlib import Path

from ..config.sampling import GenerateConfig
from .attach import attach
from .grid import grid
from .sample import drawn_with, open_for, sample_with, save_png


def generate(config: GenerateConfig) -> list[Path]:
    """Every prompt with every seed -> PNG files with their settings inside; their paths, the grid's last."""
    backbone = open_for(config)
    attach(backbone, config.content_file, config.style_file, config.lora_file)
    prompts = [prompt for prompt in config.prompts for _ in config.seeds]
    seeds = [*config.seeds] * len(config.prompts)
    images = sample_with(backbone, config, prompts, seeds)
    folder = Path(config.output_dir)
    paths = []
    for index, (image, prompt, seed) in enumerate(zip(images, prompts, seeds, strict=True)):
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
