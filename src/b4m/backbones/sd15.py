"""Stable Diffusion 1.x and 2.x: one text encoder, and a UNet that is told nothing but the prompt."""

from collections.abc import Mapping
from typing import Any

from diffusers import ModelMixin, StableDiffusionPipeline

from ..core.errors import UserError
from .latent_diffusion import LatentDiffusion


class SD15(LatentDiffusion):
    """Stable Diffusion 1.x and 2.x base models."""

    family = "sd15"
    pipeline = StableDiffusionPipeline
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    @classmethod
    def stamp(cls, denoiser: ModelMixin, prediction_type: str) -> dict[str, str]:
        """Told apart as kohya does: 2.x has linear layers around its transformers, and v is said of either."""
        v = prediction_type == "v_prediction"
        if not denoiser.config.use_linear_projection:
            return {
                "modelspec.architecture": "stable-diffusion-v1",
                "ss_base_model_version": "sd_v1_v" if v else "sd_v1",
            }
        return {
            "modelspec.architecture": "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512",
            "ss_base_model_version": "sd_v2_v" if v else "sd_v2",
            "ss_v2": "True",  # by which A1111 tells it
        }

    @classmethod
    def _check_settings(
        cls, name: str, unet: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> None:
        super()._check_settings(name, unet, vae, scheduler)
        if unet.get("addition_embed_type") is not None:
            raise UserError(f"base model {name}: its UNet is no plain Stable Diffusion 1.x or 2.x one")
