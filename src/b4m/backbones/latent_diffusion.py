"""What Stable Diffusion's families share: Diffusers pipelines of a UNet, a KL autoencoder and CLIP text encoders."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    ModelMixin,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.training_utils import free_memory
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from ..core.errors import UserError
from ..core.storage import reason
from ..data.images import Picture
from ..data.summary import Cut
from .frozen import lay_out
from .noise import PREDICTIONS, SAMPLERS, check_noise
from .prompts import cut_off
from .protocol import Attached, Conditions
from .source import INDEX, Source, find

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPELESS = ("sample_size", "upcast_attention")  # settings of a UNet that differ between copies of one model
SCHEDULER, VAE = "scheduler/scheduler_config.json", "vae/config.json"


class LatentDiffusion:
    """The common part of `Backbone`: a family with one text encoder adds its names, and what it checks and says."""

    family: ClassVar[str]
    pipeline: ClassVar[type[DiffusionPipeline]]
    encoders: ClassVar[dict[str, str]] = {"tokenizer": "text_encoder"}
    # What the pipeline's encode_prompt returns, as its call names it.
    encoded: ClassVar[tuple[str, ...]] = ("prompt_embeds", "negative_prompt_embeds")
    options: ClassVar[dict[str, Any]] = {}  # of the pipeline's from_pretrained

    def __init__(self, pipe: DiffusionPipeline, name: str = "") -> None:
        """Around a pipeline that is loaded already; it is frozen. Raises UserError for parts that do not fit."""
        self.pipe, self.name = pipe, name or pipe.name_or_path
        self.attached: Attached | None = None
        for part in ("unet", "vae", *self.encoders.values()):
            if getattr(pipe, part) is None:
                raise UserError(f"base model {self.name}: incomplete, it has no {part}; download it again")
            getattr(pipe, part).requires_grad_(False).eval()
        pipe.set_progress_bar_config(disable=True)
        self._check_parts()

    @classmethod
    def reads(cls, index: Mapping[str, Any]) -> bool:
        return index.get("_class_name") == cls.pipeline.__name__

    @classmethod
    def load(cls, base_model: str, vae: str | None = None, dtype: torch.dtype = torch.float32) -> Self:
        """The VAE in float32: it is the part that overflows in half precision, and it runs once per image only."""
        source = cls._found(base_model)
        weights = ["unet", "vae", *cls.encoders.values()]
        parts = {}
        if vae is not None:
            parts["vae"] = cls._other_vae(source, vae)
            weights.remove("vae")
        return cls(source.pipeline(cls.pipeline, weights, dtype, **cls.options, **parts), base_model)

    @classmethod
    def _other_vae(cls, source: Source, name: str) -> AutoencoderKL:
        """That which replaces the one of `source`. Raises UserError where it was plainly made for other latents."""
        vae = find("VAE", name).autoencoder(cls.family)
        own = source.read(VAE, needed=False)
        wanted = own.get("scaling_factor", vae.config.scaling_factor)
        if vae.config.scaling_factor != wanted:
            raise UserError(
                f"VAE {name}: it scales latents by {vae.config.scaling_factor}, the base model's own by {wanted}; "
                "give one that was made for models of this family"
            )
        return vae

    @classmethod
    def empty_denoiser(cls, base_model: str) -> UNet2DConditionModel:
        config = cls._found(base_model).read("unet/config.json")
        try:
            with torch.device("meta"):
                return UNet2DConditionModel.from_config(config)
        except Exception as error:  # settings that the library does not understand
            raise UserError(f"base model {base_model}: its UNet cannot be made ({reason(error)})") from error

    @classmethod
    def load_denoiser(cls, base_model: str) -> UNet2DConditionModel:
        return cls._found(base_model).part(UNet2DConditionModel, "unet", torch.float32)

    @classmethod
    def read_prediction_type(cls, base_model: str) -> str:
        return cls._found(base_model).read(SCHEDULER).get("prediction_type", PREDICTIONS[0])

    @classmethod
    def _found(cls, base_model: str) -> Source:
        """Where it lies, its settings checked: nothing big is loaded or downloaded to be refused."""
        source = find("base model", base_model)
        scheduler, vae = source.read(SCHEDULER), source.read(VAE, needed=False)
        cls._check_settings(base_model, source.read("unet/config.json"), vae, scheduler)
        named = source.read(INDEX).get("scheduler")
        if isinstance(named, list) and len(named) == 2:  # [library, class], of which the pipeline makes it
            check_noise(f"base model {base_model}", {**scheduler, "_class_name": named[1]})
        source.check()
        return source

    @classmethod
    def _check_settings(
        cls, name: str, unet: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> None:
        """The configurations of the parts; that of the VAE is empty where it comes from elsewhere. Raises UserError."""
        check_noise(f"base model {name}", scheduler)
        reads, makes = unet.get("in_channels", 4), vae.get("latent_channels", 4) if vae else None
        if makes is not None and reads != makes:
            kinds = {"9": ", as inpainting models do", "8": ", as models that edit images do"}
            kind = kinds.get(str(reads), "")
            raise UserError(
                f"base model {name}: the UNet reads {reads} channels{kind}, the VAE makes {makes}; a plain base model, "
                "whose UNet and VAE fit together, is needed"
            )
        if unet.get("time_cond_proj_dim") is not None:
            raise UserError(
                f"base model {name}: its UNet is told the guidance scale (a latent consistency model), which is not "
                "supported; give the model it was made from, and for few steps its LoRA with --base-lora"
            )

    @classmethod
    def read_tokenizers(cls, base_model: str) -> list[CLIPTokenizer]:
        return find("base model", base_model).at_hand().tokenizers([*cls.encoders])

    @property
    def denoiser(self) -> UNet2DConditionModel:
        return self.pipe.unet

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.pipe.scheduler.alphas_cumprod.float()

    @property
    def prediction_type(self) -> str:
        return self.pipe.scheduler.config.prediction_type

    def sampler(self, steps: int, scheduler: str = "euler") -> SchedulerMixin:
        return SAMPLERS[scheduler](self.pipe.scheduler, steps)

    def to(self, device: torch.device | str) -> Self:
        self.pipe.to(device)
        lay_out(self.denoiser)
        return self

    def check_size(self, size: int, flag: str) -> None:
        unit = self._pixels_per_latent * 2 ** (len(self.denoiser.config.block_out_channels) - 1)
        if size % unit:
            raise UserError(f"{flag} {size}: this base model needs a multiple of {unit} pixels")

    @property
    def _pixels_per_latent(self) -> int:
        return 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)

    def _check_parts(self) -> None:
        pipe = self.pipe
        for part, encoder in self.encoders.items():
            words, wanted = len(getattr(pipe, part) or ()), getattr(pipe, encoder).config.vocab_size
            # Where the files are missing, transformers makes one without words, silently.
            if words < wanted / 2:
                raise UserError(
                    f"base model {self.name}: its {part} is missing or broken ({words} words, its text encoder has "
                    f"{wanted}); download or copy the model again"
                )
        scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
        self._check_settings(self.name, pipe.unet.config, pipe.vae.config, scheduler)

    def cut_off(self, prompts: Sequence[str]) -> Cut:
        return cut_off([getattr(self.pipe, part) for part in self.encoders], prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """hidden (k, tokens, width)."""
        hidden, *_ = self._encode(prompts, do_classifier_free_guidance=False)
        return {"hidden": hidden}

    @torch.no_grad()
    def encode_unguided(self) -> Conditions:
        _, hidden, *_ = self._encode([""])
        return {"hidden": hidden}

    @torch.no_grad()
    def encode_guided(
        self, prompts: Sequence[str], negative: str | None, guided: bool = True
    ) -> dict[str, Tensor]:
        negative_prompt = None if negative is None else [negative] * len(prompts)
        tensors = self._encode(prompts, negative_prompt=negative_prompt, do_classifier_free_guidance=guided)
        named = zip(self.encoded, tensors, strict=True)
        return {name: tensor.to(self.denoiser.dtype) for name, tensor in named if tensor is not None}

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """The posterior's mean."""
        vae = self.pipe.vae
        return encode_images(vae, pixels)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> list[Image.Image]:
        """The VAE runs in float32 and on one image after another."""
        vae = self.pipe.vae
        mean, scale = _shift_and_scale(vae, latents.float())
        latents = (latents.float() / scale + mean).to(vae.device)
        pixels = torch.cat([vae.decode(z[None]).sample for z in latents])
        levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
        return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels]

    def image_conditions(self, image: Picture) -> Conditions:
        return {}

    def arguments(self, conditions: Conditions) -> dict[str, Any]:
        return {"encoder_hidden_states": conditions["hidden"]}

    def retold(self, given: dict[str, Any], conditions: Conditions) -> dict[str, Any]:
        return {**given, "encoder_hidden_states": last(given["encoder_hidden_states"], conditions["hidden"])}

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        attention: dict[str, Any] | None = None,
    ) -> Tensor:
        given = self.arguments(conditions)
        dtype = next(self.denoiser.parameters()).dtype  # Diffusers' own .dtype goes through every module
        noisy = noisy.to(dtype)
        return self.denoiser(noisy, timesteps, **given, cross_attention_kwargs=attention).sample

    def free(self, keep_vae: bool = False, keep_encoders: bool = False) -> None:
        for encoder in () if keep_encoders else self.encoders.values():
            setattr(self.pipe, encoder, None)
        if not keep_vae:
            self.pipe.vae = None
        free_memory()

    def _encode(self, prompts: Sequence[str], **options: Any) -> tuple[Tensor, ...]:
        """The pipeline's own encode_prompt."""
        device = getattr(self.pipe, next(iter(self.encoders.values()))).device
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True, **options}
        return self.pipe.encode_prompt(list(prompts), device=device, **options)


def last(rows: Tensor, new: Tensor) -> Tensor:
    """(samples, ...) whose last k are those of `new` (k, ...)."""
    return torch.cat([rows[: len(rows) - len(new)], new.to(rows)])


@torch.no_grad()
def encode_images(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Images (k, 3, H, W) in [-1, 1] -> normalized latents (k, c, h, w) float32: the posterior's mean."""
    latents = vae.encode(pixels.to(vae.device, torch.float32)).latent_dist.mode()
    mean, scale = _shift_and_scale(vae, latents)
    return (latents - mean) * scale


def _shift_and_scale(vae: AutoencoderKL, like: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, scale), each broadcastable to latents: normalized = (latents - mean) * scale."""
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or std is None:
        return like.new_zeros(()), like.new_tensor(vae.config.scaling_factor)
    mean, std = (like.new_tensor(values)[:, None, None] for values in (mean, std))
    return mean, vae.config.scaling_factor / std


def denoiser_hash(denoiser: ModelMixin) -> str:
    """sha256 of the configuration that shapes the weights of a Diffusers model, the same wherever it came from.

    Left out: keys with an underscore (paths, versions); SHAPELESS; and settings at their default value, so that a
    setting which a later Diffusers adds does not change the hash.
    """
    defaults = {name: p.default for name, p in inspect.signature(type(denoiser).__init__).parameters.items()}
    config = {
        key: value
        for key, value in denoiser.config.items()
        if not key.startswith("_") and key not in SHAPELESS and _plain(value) != _plain(defaults.get(key))
    }
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def check_base(expected: str, denoiser: ModelMixin, what: str, base_model: str) -> None:
    """Raises UserError unless `denoiser` has the architecture whose hash is `expected`."""
    if expected != denoiser_hash(denoiser):
        raise UserError(
            f"{what} was made for another UNet (hash {expected[:12]}) than that of {base_model} "
            f"({denoiser_hash(denoiser)[:12]}): give --base-model as it was in training"
        )


def _plain(value: object) -> object:
    """A list for a tuple: a configuration read back from its file has lists."""
    return list(value) if isinstance(value, tuple) else value
