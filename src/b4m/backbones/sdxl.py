"""Stable Diffusion XL: two text encoders side by side, and a UNet that is told sizes and crops (text_time)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ModelMixin, StableDiffusionXLPipeline

from ..core.errors import UserError
from ..data.images import Picture
from .latent_diffusion import LatentDiffusion, last
from .protocol import Conditions


class SDXL(LatentDiffusion):
    """Stable Diffusion XL base models, and the embedded base, which is one in everything but size."""

    family = "sdxl"
    pipeline = StableDiffusionXLPipeline
    encoders = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
    encoded = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    options = {"add_watermarker": False}

    @classmethod
    def stamp(cls, denoiser: ModelMixin, prediction_type: str) -> dict[str, str]:
        return {
            "modelspec.architecture": "stable-diffusion-xl-v1-base",
            "ss_base_model_version": "sdxl_base_v1-0",
        }

    @classmethod
    def _check_settings(
        cls, name: str, unet: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> None:
        super()._check_settings(name, unet, vae, scheduler)
        if unet.get("addition_embed_type") != "text_time":
            raise UserError(
                f"base model {name}: its UNet has no text_time conditioning; an SDXL base model is needed"
            )

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """hidden (k, tokens, width): states of both encoders; pooled (k, pooled width): of the second."""
        hidden, _, pooled, _ = self._encode(prompts, do_classifier_free_guidance=False)
        return {"hidden": hidden, "pooled": pooled}

    @torch.no_grad()
    def encode_unguided(self) -> Conditions:
        _, hidden, _, pooled = self._encode([""])
        return {"hidden": hidden, "pooled": pooled}

    def image_conditions(self, image: Picture) -> Conditions:
        """time_ids (6,): original height, width; crop's top, left; target height, width."""
        values = [*image.original_size, *image.crop_top_left, *image.pixels.shape[-2:]]
        return {"time_ids": torch.tensor(values, dtype=torch.float32)}

    def retold(self, given: dict[str, Any], conditions: Conditions) -> dict[str, Any]:
        added = given["added_cond_kwargs"]
        pooled = last(added["text_embeds"], conditions["pooled"])
        return {**super().retold(given, conditions), "added_cond_kwargs": {**added, "text_embeds": pooled}}

    def arguments(self, conditions: Conditions) -> dict[str, Any]:
        added = {"text_embeds": conditions["pooled"], "time_ids": conditions["time_ids"]}
        return {**super().arguments(conditions), "added_cond_kwargs": added}
