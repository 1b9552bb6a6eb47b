"""Stable Diffusion 1.x and 2.x: one text encoder, and a UNet that is told nothing but the prompt."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ..core.errors import UserError
from .latent_diffusion import LatentDiffusion
from .protocol import Conditions


class SD15(LatentDiffusion):
    """Stable Diffusion 1.x and 2.x base models."""

    family = "sd15"
    architecture = "stable-diffusion-v1"
    kohya_version = "sd_v1"
    pipeline = StableDiffusionPipeline
    encoders = {"tokenizer": "text_encoder"}
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def _check_parts(self) -> None:
        super()._check_parts()
        if self.denoiser.config.addition_embed_type is not None:
            raise UserError(f"base model {self.name}: its UNet is no plain Stable Diffusion 1.x or 2.x one")

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """hidden (k, tokens, width)."""
        hidden, _ = self._encode(prompts, do_classifier_free_guidance=False)
        return {"hidden": hidden}

    @torch.no_grad()
    def encode_guided(self, prompts: Sequence[str], negative: str | None) -> dict[str, Tensor]:
        encoded = self._encode(
            prompts, negative_prompt=None if negative is None else [negative] * len(prompts)
        )
        names = ("prompt_embeds", "negative_prompt_embeds")
        return {name: tensor.to(self.denoiser.dtype) for name, tensor in zip(names, encoded, strict=True)}
