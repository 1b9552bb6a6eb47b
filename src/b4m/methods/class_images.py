"""Images of a class that the base model draws itself: shown beside a concept, they keep the class as it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..backbones.latent_diffusion import DTYPES
from ..backbones.registry import open_backbone
from ..config.fields import setting
from ..config.training import JobConfig, ShowsContent, ShowsStyle
from ..files.opening import save_method_file

CLASSES = "class_images.safetensors"
METHOD = "custom-diffusion"  # the one that reads the file


@dataclass(frozen=True, kw_only=True)
class DrawsClasses(JobConfig):
    """Settings of the base model's own images of a class, which keep the class as it was."""

    result: ClassVar[str] = CLASSES
    own_presets = {"embedded": dict(draw_count=64, draw_guidance=2.5)}

    seed: int = setting("seed of the images", 77, low=0, high=2**63 - 1)
    resolution: int = setting("side of the images in pixels", 512, low=8, high=8192)
    mixed_precision: str = setting("precision of the model", "no", choices=tuple(DTYPES))
    draw_count: int = setting("how many images", 200, low=1, high=100_000)
    draw_steps: int = setting("denoising steps", 25, low=1, high=1000)
    draw_guidance: float = setting("classifier-free guidance scale", 5.0, low=0, high=1000)


@dataclass(frozen=True, kw_only=True)
class ContentClassesConfig(ShowsContent, DrawsClasses):
    """Of what the content is."""

    stage = "custom-diffusion-content-classes"


@dataclass(frozen=True, kw_only=True)
class StyleClassesConfig(ShowsStyle, DrawsClasses):
    """Of the style's words."""

    stage = "custom-diffusion-style-classes"


def kinds_of(config: Any) -> tuple[str, ...]:
    """Which concepts a job shows."""
    shows = {"content": ShowsContent, "style": ShowsStyle}
    return tuple(kind for kind, cls in shows.items() if isinstance(config, cls))


def class_prompt(config: Any, kind: str) -> str:
    """The caption of a class image: the concept's own without its word."""
    prompt, trigger = (getattr(config, f"{kind}_{name}") for name in ("prompt", "trigger"))
    return " ".join(word for word in prompt.split() if word != trigger)


class ClassImages:
    """The assembly of class images, kept as latents: no autoencoder is needed to draw them or to learn from them."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @torch.no_grad()
    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        (kind,) = kinds_of(config)
        backbone = open_backbone(config.base_model, None, config.mixed_precision)
        if torch.cuda.is_available():
            backbone.to("cuda")
        backbone.check_size(config.resolution, "--resolution")
        backbone.pipe.scheduler = backbone.sampler(config.draw_steps)
        prompt, latents = class_prompt(config, kind), []
        for first in range(0, config.draw_count, 8):
            seeds = [config.seed + number for number in range(first, min(first + 8, config.draw_count))]
            drawn = backbone.pipe(
                **backbone.encode_guided([prompt] * len(seeds), None),
                num_inference_steps=config.draw_steps,
                guidance_scale=config.draw_guidance,
                height=config.resolution,
                width=config.resolution,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="latent",
            )
            latents.append(drawn.images.float().cpu())
        told = {"holds": "class images", "class_prompt": prompt}
        save_method_file(
            folder / CLASSES,
            METHOD,
            {"latents": torch.cat(latents)},
            backbone.denoiser,
            {**facts, **told},
            role=kind,
        )
