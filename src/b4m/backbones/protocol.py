"""What the rest of the house asks of a model family, and nothing else: one file each fills it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from PIL import Image
from torch import Tensor

from ..data.images import Picture
from ..data.summary import Cut
from ..maths.composing import Strength

Conditions = dict[str, Tensor]  # by name; a row for each sample


class Attached(Protocol):
    """What a method has put on a base model for sampling."""

    def arguments(self, content: float, style: float) -> dict[str, Any] | None:
        """The two dials as the pipeline's cross_attention_kwargs. Raises UserError where they cannot be followed."""

    def remove(self) -> None:
        """Take it off: the base model again."""


@runtime_checkable
class BySample(Attached, Protocol):
    """One whose dials may be turned for each sample of a batch."""

    by_sample: ClassVar[bool]

    def arguments(self, content: Strength, style: Strength, *more: Strength) -> dict[str, Any] | None:
        """As above; a strength of all samples, or of each. more: of what else was put on, in that order."""


@runtime_checkable
class Folds(Attached, Protocol):
    """One that can be as fast as the base model alone while its dials stay where they are."""

    def folding(self) -> AbstractContextManager[None]:
        """While it lasts, images are drawn with few pairs of dials. The base model's own weights are left alone."""


@runtime_checkable
class Told(Attached, Protocol):
    """One that has a say in what the denoiser is told, which may differ from timestep to timestep."""

    def prompt_at(self, prompt: str, timestep: float) -> str:
        """What to read to the text encoders in place of `prompt`, under the dials as they are."""


@runtime_checkable
class Draws(Attached, Protocol):
    """One that draws in its own way, from a start of its own."""

    def draw(self, prompts: Sequence[str], steps: int, guidance: float, width: int, height: int) -> Tensor:
        """Latents (prompts, c, h, w), whatever the seeds. Raises UserError for what it cannot follow."""


class Backbone(Protocol):
    """A loaded base model: frozen, its autoencoder in float32.

    Where a call returns Conditions, their names and widths are the family's own business.
    """

    family: ClassVar[str]  # its registered name
    encoders: ClassVar[dict[str, str]]  # parts of the pipeline: tokenizer -> text encoder
    pipe: DiffusionPipeline  # stock Diffusers
    name: str  # a folder, a file or a Hugging Face name
    attached: Attached | None

    @classmethod
    def reads(cls, index: Mapping[str, Any]) -> bool:
        """Whether a model with this model_index.json belongs to the family."""

    @classmethod
    def load(cls, base_model: str, vae: str | None = None, dtype: torch.dtype = torch.float32) -> Self:
        """From a folder, a file or a Hugging Face name; reads safetensors only. Raises UserError."""

    @classmethod
    def empty_denoiser(cls, base_model: str) -> ModelMixin:
        """The denoiser without its weights, on the meta device: the sizes of its layers. Raises UserError."""

    @classmethod
    def load_denoiser(cls, base_model: str) -> ModelMixin:
        """The denoiser alone, float32, on the CPU. Raises UserError."""

    @classmethod
    def read_prediction_type(cls, base_model: str) -> str:
        """`prediction_type` of a base model that is not loaded. Raises UserError."""

    @classmethod
    def stamp(cls, denoiser: ModelMixin, prediction_type: str) -> dict[str, str]:
        """Header entries by which other tools tell what base model a file is for (modelspec.*, kohya's ss_*)."""

    @property
    def denoiser(self) -> ModelMixin:
        """What is adapted: the UNet or transformer."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """(train_timesteps,) float32: the noise process."""

    @property
    def prediction_type(self) -> str:
        """Either "epsilon" or "v_prediction"."""

    def sampler(self, steps: int, scheduler: str = "euler") -> SchedulerMixin:
        """What images are drawn with in `steps` steps: on the noise process that the model was trained on.

        scheduler: "euler" or "lcm".
        """

    def to(self, device: torch.device | str) -> Self:
        """Every part to `device`."""

    def check_size(self, size: int, flag: str) -> None:
        """Raises UserError, naming `flag`, unless images of `size` pixels pass through."""

    @classmethod
    def read_tokenizers(cls, base_model: str) -> Sequence[Any]:
        """Those of a base model on this machine that is not loaded. Raises whatever their library raises."""

    def cut_off(self, prompts: Sequence[str]) -> Cut:
        """What the text encoders will not read of each prompt."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """A row for each prompt; gradients reach what learns in the text encoders, if anything does."""

    def encode_unguided(self) -> Conditions:
        """A row: what guidance leads away from where no negative prompt is given."""

    def encode_guided(
        self, prompts: Sequence[str], negative: str | None, guided: bool = True
    ) -> dict[str, Tensor]:
        """The embeddings of sampling, named as in the pipeline's call, in the denoiser's dtype.

        guided: with those of what guidance leads away from.
        """

    def image_conditions(self, image: Picture) -> Conditions:
        """What the denoiser is told of a training image, without the dimension of samples."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Images (k, 3, H, W) in [-1, 1] -> normalized latents (k, c, h, w) float32."""

    def decode_latents(self, latents: Tensor) -> list[Image.Image]:
        """Normalized latents (k, c, h, w) -> k images."""

    def arguments(self, conditions: Conditions) -> dict[str, Any]:
        """What the denoiser's call takes besides latents and timesteps."""

    def retold(self, given: dict[str, Any], conditions: Conditions) -> dict[str, Any]:
        """`given`, the keywords of a denoiser's call, with what `encode_prompts` says in its last samples."""

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        attention: dict[str, Any] | None = None,
    ) -> Tensor:
        """The denoiser's prediction, like noisy (k, c, h, w); attention: cross_attention_kwargs."""

    def free(self, keep_vae: bool = False, keep_encoders: bool = False) -> None:
        """Let go of text encoders and autoencoder, which training has done with."""
