"""The UNets of published base models, without their weights: by names and shapes a file tells for which it was made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel

from .protocol import Backbone
from .registry import FAMILIES
from .single_file import CONFIGS


@dataclass(frozen=True)
class Published:
    """One architecture. `config`: of its UNet; what it does not say is Diffusers' default."""

    title: str
    family: str | None  # its registered name; None: b4m does not draw with it
    config: Mapping[str, Any]
    prediction: str | None = None  # prediction type, where all its checkpoints share one
    names: tuple[str, ...] = ()  # on the hub

    def backbone(self) -> type[Backbone] | None:
        return FAMILIES.get(self.family) if self.family else None


def _shipped(name: str) -> dict[str, Any]:
    """The UNet's configuration among those that come with the package."""
    return json.loads((CONFIGS / name / "unet" / "config.json").read_text())


_SDXL, _SD15 = _shipped("sdxl"), _shipped("sd15")
_REFINER = _SDXL | dict(
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=4,
    attention_head_dim=(6, 12, 24, 24),
    cross_attention_dim=1280,
    projection_class_embeddings_input_dim=2560,
)

PUBLISHED = (
    Published("Stable Diffusion XL", "sdxl", _SDXL, "epsilon", ("stabilityai/stable-diffusion-xl-base-1.0",)),
    Published("the refiner of Stable Diffusion XL", None, _REFINER),
    Published(
        "Stable Diffusion 1.x",
        "sd15",
        _SD15,
        "epsilon",
        (
            "CompVis/stable-diffusion-v1-4",
            "runwayml/stable-diffusion-v1-5",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
    ),
    Published(
        "Stable Diffusion 2.x",
        "sd15",
        _SD15
        | dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
    ),
)


def published(name: str) -> Published | None:
    """The architecture of a base model that is known by its Hugging Face name."""
    return next((one for one in PUBLISHED if name in one.names), None)


@cache
def empty_unet(title: str) -> ModelMixin:
    """The UNet of one of PUBLISHED, on the meta device."""
    config = next(one.config for one in PUBLISHED if one.title == title)
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(dict(config))
