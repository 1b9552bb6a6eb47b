"""A model family from another package, in one file: its UNet hears the prompt twice, in its time embedding too."""

from diffusers import StableDiffusionPipeline

from b4m.backbones.latent_diffusion import LatentDiffusion
from b4m.core.errors import UserError


class EchoPipeline(StableDiffusionPipeline):
    """Of a name of its own, which is what model_index.json says."""


class Echo(LatentDiffusion):
    """Echo base models."""

    family, pipeline = "echo", EchoPipeline
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    @classmethod
    def stamp(cls, denoiser, prediction_type):
        return {"modelspec.architecture": "echo-v1", "ss_base_model_version": "echo_v1"}

    def _check_parts(self):
        super()._check_parts()
        if self.denoiser.config.addition_embed_type != "text":
            raise UserError(
                f"base model {self.name}: its UNet hears the prompt once; an echo base model is needed"
            )
