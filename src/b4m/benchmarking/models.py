"""What `b4m bench` measures: SDXL and a small SDXL from their configurations, with random weights and data."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, ModelMixin, UNet2DConditionModel
from PIL import Image
from torch import nn

from ..backbones.cache import Cache
from ..backbones.latent_diffusion import DTYPES
from ..backbones.protocol import Backbone
from ..backbones.registry import open_backbone
from ..backbones.sdxl import SDXL
from ..config.fields import InputPath
from ..config.stages import ContentConfig, JointConfig
from .settings import BenchConfig

_SDXL = dict(
    sample_size=128, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280), layers_per_block=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
    use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)  # fmt: skip
_SMALL = dict(  # the embedded base's
    sample_size=8, in_channels=32, out_channels=32, block_out_channels=(96, 192), layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    attention_head_dim=(4, 8), cross_attention_dim=128, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=16, projection_class_embeddings_input_dim=160,
)  # fmt: skip
UNETS = {"sdxl": _SDXL, "small": _SMALL}
_BLOCKS = dict(
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4
)  # eight pixels a latent, both
VAES = {
    "sdxl": dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **_BLOCKS),
    "small": dict(
        block_out_channels=(16, 48, 64, 80),
        layers_per_block=1,
        latent_channels=32,
        norm_num_groups=8,
        **_BLOCKS,
    ),
}
TOKENS = 77


def base(config: BenchConfig, device: torch.device) -> Backbone:
    """A frozen model in the precision asked for, its VAE in float32, on `device`; nothing is downloaded."""
    if config.base_model is not None:
        return open_backbone(config.base_model, mixed_precision=config.mixed_precision).to(device)
    dtype = DTYPES[config.mixed_precision]
    unet = random_model(UNet2DConditionModel, UNETS[config.size], dtype, device)
    return Bare(
        unet,
        random_model(AutoencoderKL, VAES[config.size], torch.float32, device),
        EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )


class Bare(SDXL):
    """SDXL's denoiser, VAE and noise process without its text encoders, which no step needs."""

    def __init__(self, unet: ModelMixin, vae: nn.Module, scheduler: EulerDiscreteScheduler) -> None:
        self.pipe = SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler)
        self.name, self.attached = "random weights", None


def beside(model: Backbone, denoiser: ModelMixin) -> Bare:
    """Another denoiser in the same model."""
    return Bare(denoiser, model.pipe.vae, model.pipe.scheduler)


@torch.no_grad()
def random_model(cls: type, settings: dict, dtype: torch.dtype, device: torch.device) -> ModelMixin:
    """A frozen model of class `cls`, its weights drawn on the device and in `dtype`: no copy in float32 is made."""
    with torch.device("meta"):
        model = cls(**settings)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(float(name.endswith("weight")))  # of a normalization
    return model


def random_cache(unet: ModelMixin, images: int, resolution: int) -> Cache:
    """A Cache as `backbones.cache.encode` makes it, of noise: `images` images, one prompt each."""
    config = unet.config
    generator = torch.Generator().manual_seed(1)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def noise(*shape: int, dtype: torch.dtype = unet.dtype) -> torch.Tensor:
        return torch.randn(images, *shape, generator=generator).to(unet.device, dtype)

    return Cache(
        latents=list(noise(config.in_channels, resolution // 8, resolution // 8, dtype=torch.float32)),
        by_prompt={"hidden": noise(TOKENS, config.cross_attention_dim), "pooled": noise(pooled)},
        by_image={"time_ids": torch.full((images, 6), resolution, device=unet.device, dtype=unet.dtype)},
        prompt=torch.arange(images, device=unet.device),
    )


def job(config: BenchConfig, stage: str, folder: Path) -> ContentConfig | JointConfig:
    """Settings of one training on images of noise that are written to `folder`."""
    names = ["target", *(f"partner-{i}" for i in range(config.partners))]
    for index, name in enumerate(names):
        shape: Any = (config.resolution, config.resolution, 3)
        pixels = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    target, *partners = [(InputPath(str(folder / f"{name}.png")),) for name in names]
    common: dict[str, Any] = dict(
        output_dir=str(folder / stage),
        resolution=config.resolution,
        rank=config.rank,
        layers=config.layers,
        gradient_accumulation=1,
        mixed_precision=config.mixed_precision,
        gradient_checkpointing=config.gradient_checkpointing,
        rows_per_pass=config.rows_per_pass,
    )
    if stage == "content":
        return ContentConfig(content_dir=target, partner_dirs=sum(partners, ()), target_rows=1, **common)
    samples = max(1, (1 + config.partners) // 2)  # the second stage's: as many of either kind
    return JointConfig(
        content_dir=target, style_dir=partners[0], target_rows=samples, routing=False, **common
    )
