"""LoRAs for tests of what is made of them: random ones, and settings of jobs on the tiny base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from conftest import SIZE

from b4m.backbones.cache import Cache
from b4m.backbones.protocol import Backbone
from b4m.backbones.registry import family_of
from b4m.config.resolve import resolve
from b4m.files.contents import Layers
from b4m.files.lora import save_lora
from b4m.methods.protocol import Batch

ENDS = ("to_q", "to_k", "to_v", "to_out.0")


def random_lora(base: str, seed: int, rank: int = 2, size: float = 0.3) -> Layers:
    """Of all attention projections of a base model."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, module in family_of(base).empty_denoiser(base).named_modules():
        if name.endswith(ENDS):
            m, n = module.weight.shape
            up, down = torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator)
            layers[name] = size * up, size * down
    return layers


def two_loras(base: str, folder: Path) -> dict[str, str]:
    """content_file and style_file."""
    files = {}
    for seed, kind in enumerate(("content", "style")):
        files[f"{kind}_file"] = str(folder / f"{kind}.safetensors")
        words = {f"b4m.{kind}_trigger": "snq", f"b4m.{kind}_prompt": f"a {kind}"}
        save_lora(files[f"{kind}_file"], random_lora(base, seed), words)
    return files


def job(cls: type, base: str, folder: Path, **settings: Any) -> Any:
    """Settings of a job on the tiny base."""
    given = {
        "base_model": base,
        "output_dir": str(folder),
        "resolution": SIZE,
        "steps": 2,
        "rank": 2,
        "lr": 0.05,
    }
    known = {name: value for name, value in given.items() if name in cls.__dataclass_fields__}
    return resolve(cls, "embedded", **{**known, **settings})


def batch(cache: Cache, images: Sequence[int], timesteps: Sequence[int]) -> Batch:
    """These images of a cache at these timesteps, as the samples of one micro-batch, under seeded noise."""
    chosen, latents = torch.tensor(images), torch.stack([cache.latents[image] for image in images])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    weights, places = torch.ones(len(images)), range(len(images))
    return Batch(chosen, latents, noise, torch.tensor(timesteps), weights, cache.conditions(chosen), places)


def ask(backbone: Backbone, question: tuple, timesteps: torch.Tensor | None = None) -> torch.Tensor:
    """What the denoiser says to a `contract.question`."""
    noisy, t, conditions = question
    with torch.no_grad():
        return backbone.predict(noisy, t if timesteps is None else timesteps, conditions)


def product(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return pair[0] @ pair[1]
