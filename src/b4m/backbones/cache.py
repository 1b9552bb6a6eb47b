"""All that a training reads of its images and prompts, encoded once before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.images import Picture
from .protocol import Backbone, Conditions


@dataclass(frozen=True)
class Cache:
    """Row i of latents, prompt and by_image belongs to image i."""

    latents: Tensor  # (images, c, h, w) float32
    by_prompt: Conditions  # a row for each different prompt
    by_image: Conditions  # a row for each image
    prompt: Tensor  # (images,) index into by_prompt
    mask: Tensor | None = (
        None  # (images, 1, h, w) float32: what the loss of each latent counts; None: all the same
    )

    def conditions(self, images: Tensor) -> Conditions:
        """Those of images (k,)."""
        of_prompts = {name: rows[self.prompt[images]] for name, rows in self.by_prompt.items()}
        return {**of_prompts, **{name: rows[images] for name, rows in self.by_image.items()}}


def encode(
    backbone: Backbone,
    images: Sequence[Picture],
    prompts: Sequence[str],
    device: torch.device | str = "cpu",
) -> Cache:
    """Encode `images` and their `prompts` (one each) on `device`; equal prompts once.

    Text encoders and VAE go to the device for it, the denoiser does not: it finds there the room that they leave.
    """
    dtype = backbone.denoiser.dtype
    for part in backbone.pipe.components.values():
        if isinstance(part, torch.nn.Module) and part is not backbone.denoiser:
            part.to(device)
    unique = list(dict.fromkeys(prompts))
    size = images[0].pixels.shape[-1]
    of_images = [backbone.image_conditions(image, size) for image in images]
    by_image = {name: torch.stack([each[name] for each in of_images]) for name in of_images[0]}
    by_prompt = backbone.encode_prompts(unique)
    latents = torch.cat([backbone.encode_images(image.pixels[None]) for image in images]).to(device)
    return Cache(
        latents=latents,
        by_prompt={name: rows.to(device, dtype) for name, rows in by_prompt.items()},
        by_image={name: rows.to(device, dtype) for name, rows in by_image.items()},
        prompt=torch.tensor([unique.index(prompt) for prompt in prompts], device=device),
        mask=_mask(images, latents),
    )


def _mask(images: Sequence[Picture], latents: Tensor) -> Tensor | None:
    """What of each latent's pixels the loss counts."""
    if all(image.mask is None for image in images):
        return None
    whole = torch.ones(1, *images[0].pixels.shape[1:])
    masks = torch.stack([whole if image.mask is None else image.mask for image in images])
    height, width = latents.shape[-2:]
    return F.adaptive_avg_pool2d(masks, (height, width)).to(latents.device)
