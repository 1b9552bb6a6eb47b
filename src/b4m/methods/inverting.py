"""What methods share that invert one image beside a content's LoRA: the settings, and the model with the image."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..backbones.cache import encode
from ..backbones.latent_diffusion import DTYPES
from ..backbones.protocol import Backbone, Conditions
from ..backbones.registry import open_backbone
from ..config.fields import InputPath, ModelName, setting
from ..config.training import JobConfig
from ..data.images import Picture
from ..files.opening import Opened
from ..maths.inversion import grid
from .low_rank import check_fit


@dataclass(frozen=True, kw_only=True)
class Inverts(JobConfig):
    """Settings of the inversion of one image."""

    content_file: InputPath | None = setting("a LoRA file of the content", None)
    vae: ModelName | None = setting("folder or name of an autoencoder that replaces the base model's", None)
    resolution: int = setting("side of the image in pixels", 512, low=8, high=8192)
    fit: str = setting(
        "cut images to a centred square, or fit them whole on white", "crop", choices=("crop", "pad")
    )
    mixed_precision: str = setting("precision of the model", "no", choices=tuple(DTYPES))
    inversion_steps: int = setting("steps of the inversion", 50, low=1, high=1000)


class Encoded(NamedTuple):
    """An image before its inversion: all on the device of `backbone`."""

    backbone: Backbone
    latents: Tensor  # (1, channels, h, w)
    conditions: Conditions  # of the image's caption, a row
    timesteps: Tensor  # (inversion_steps + 1,), as `maths.inversion.grid` gives them
    alphas: Tensor  # alpha_bar of every timestep
    device: torch.device


def encode_one(config: Inverts, content: Opened, image: Picture, prompt: str) -> Encoded:
    """Open the base model, check that the content's LoRA fits it, encode image and caption. Raises UserError."""
    backbone = open_backbone(config.base_model, config.vae, config.mixed_precision)
    backbone.check_size(config.resolution, "--resolution")
    check_fit(content.where, content.layers, backbone.denoiser, backbone.name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cache = encode(backbone, [image], [prompt], device)
    backbone.denoiser.to(device)
    conditions = cache.conditions(torch.zeros(1, dtype=torch.long, device=device))
    timesteps = grid(config.inversion_steps, len(backbone.alphas_cumprod))
    return Encoded(
        backbone, cache.latents[0][None], conditions, timesteps, backbone.alphas_cumprod.to(device), device
    )


def content_tensors(content: Opened) -> dict[str, Tensor]:
    """The content's LoRA as a method's file carries it."""
    return {
        f"content/{name}/{side}": tensor
        for name, pair in content.layers.items()
        for side, tensor in zip(("up", "down"), pair, strict=True)
    }
