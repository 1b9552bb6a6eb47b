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

    latents: Sequence[Tensor]  # (c, h, w) float32 of each image; images may have different shapes
    by_prompt: Conditions  # a row for each different prompt
    by_image: Conditions  # a row for each image
    prompt: Tensor  # (images,) index into by_prompt
    masks: Sequence[Tensor] | None = (
        None  # (1, h, w) float32 of each: what a latent counts; None: all the same
    )

    @property
    def largest(self) -> Tensor:
        """(c, h, w): latents of the largest image."""
        return max(self.latents, key=Tensor.numel)

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
    of_images = [backbone.image_conditions(image) for image in images]
    by_image = {name: torch.stack([each[name] for each in of_images]) for name in of_images[0]}
    with torch.no_grad():
        by_prompt = backbone.encode_prompts(unique)
    latents = [
        (backbone.encode_images(image.pixels[None])[0] if image.latents is None else image.latents).to(device)
        for image in images
    ]
    return Cache(
        latents=latents,
        by_prompt={name: rows.to(device, dtype) for name, rows in by_prompt.items()},
        by_image={name: rows.to(device, dtype) for name, rows in by_image.items()},
        prompt=torch.tensor([unique.index(prompt) for prompt in prompts], device=device),
        masks=_masks(images, latents),
    )


def _masks(images: Sequence[Picture], latents: Sequence[Tensor]) -> list[Tensor] | None:
    """What of each latent's pixels the loss counts."""
    if all(image.mask is None for image in images):
        return None
    masks = []
    for image, z in zip(images, latents, strict=True):
        mask = torch.ones(1, *image.pixels.shape[1:]) if image.mask is None else image.mask
        height, width = z.shape[-2:]
        masks.append(F.adaptive_avg_pool2d(mask, (height, width)).to(z.device))
    return masks
