"""Images of a class that the base model draws itself: shown beside a concept, they keep the class as it was.

They are kept as latents: no autoencoder is needed to draw them or to learn from them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backbones.latent_diffusion import DTYPES
from ..backbones.protocol import Backbone
from ..backbones.registry import open_backbone
from ..config.fields import setting
from ..config.training import JobConfig, ShowsContent, ShowsStyle
from ..files.opening import save_method_file

CLASSES = "class_images.safetensors"
METHOD = "custom-diffusion"  # the one that reads the file
AT_ONCE = 8  # images of a batch; another number would give other bits


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
    prompt = getattr(config, "prompt", None) or getattr(config, f"{kind}_prompt")
    return " ".join(word for word in prompt.split() if word != getattr(config, f"{kind}_trigger"))


@torch.no_grad()
def draw(
    backbone: Backbone, prompts: Sequence[str], seeds: Sequence[int], size: int, steps: int, guidance: float
) -> Iterator[Tensor]:
    """Latents (k, c, h, w) float32 on the CPU of images of `size` pixels a side, AT_ONCE of them after another.

    One of each prompt and seed, on the GPU if there is one, where the model then stays.
    """
    if torch.cuda.is_available():
        backbone.to("cuda")
    pipe = backbone.pipe
    scheduler, pipe.scheduler = pipe.scheduler, backbone.sampler(steps)
    try:
        for first in range(0, len(seeds), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            drawn = pipe(
                **backbone.encode_guided(prompts[some], None, guided=guidance > 1),
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=size,
                width=size,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[some]],
                output_type="latent",
            )
            yield drawn.images.float().cpu()
    finally:
        pipe.scheduler = scheduler


def save_class_images(
    path: Path, kind: str, prompt: str, latents: Tensor, backbone: Backbone, facts: Mapping[str, str]
) -> None:
    """Write the file that `METHOD` reads. Raises UserError where the disk refuses."""
    told = {"holds": "class images", "class_prompt": prompt}
    save_method_file(path, METHOD, {"latents": latents}, backbone.denoiser, {**facts, **told}, role=kind)


class ClassImages:
    """The assembly of class images."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        (kind,) = kinds_of(config)
        backbone = open_backbone(config.base_model, None, config.mixed_precision)
        backbone.check_size(config.resolution, "--resolution")
        prompt, seeds = class_prompt(config, kind), range(config.seed, config.seed + config.draw_count)
        prompts = [prompt] * len(seeds)
        drawn = draw(backbone, prompts, seeds, config.resolution, config.draw_steps, config.draw_guidance)
        save_class_images(folder / CLASSES, kind, prompt, torch.cat([*drawn]), backbone, facts)
