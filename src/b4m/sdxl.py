"""The frozen parts of an SDXL pipeline: load, encode prompts and pictures once, decode latents, time ids."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import free_memory
from PIL import Image
from torch import Tensor

from .adapter import unet_hash
from .errors import UserError
from .images import Picture

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_base(
    base_model: str, vae: str | None = None, dtype: torch.dtype = torch.float32
) -> StableDiffusionXLPipeline:
    """The pipeline in a folder or under a Hugging Face name: frozen, in `dtype`, its VAE in float32.

    The VAE is the part that overflows in half precision, and it runs once per picture only. Reads safetensors
    files only, runs no code that comes with a model. Raises UserError: not there, not SDXL, unfitting parts.
    """
    _check_folder("base model", base_model, "model_index.json", "StableDiffusionXLPipeline")
    parts = {}
    if vae is not None:
        _check_folder("VAE", vae, "config.json", "AutoencoderKL")
        parts["vae"] = _read("VAE", vae, AutoencoderKL, dtype=torch.float32)
    precision = {"default": dtype, "vae": torch.float32}
    pipe = _read(
        "base model", base_model, StableDiffusionXLPipeline, dtype=precision, add_watermarker=False, **parts
    )
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        if part is None:
            raise UserError(
                f"base model {base_model}: incomplete, it must hold a UNet, a VAE and two text encoders"
            )
        part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    _check_parts(base_model, pipe)
    return pipe


def _check_folder(what: str, name: str, index: str, class_name: str) -> None:
    """A clear word about a folder before anything is downloaded or loaded."""
    folder = Path(name).expanduser()
    if not folder.exists():
        if name.startswith(("/", ".", "~")) or name.count("/") != 1:
            raise UserError(
                f"{what} {name}: no such folder; give a folder or a Hugging Face name (owner/name)"
            )
        return
    try:
        found = json.loads((folder / index).read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{what} {name}: {index} is missing or broken; give the folder of a {class_name}"
        ) from error
    if found != class_name:
        raise UserError(f"{what} {name}: it is a {found}, and a {class_name} is needed")


def _read(what: str, name: str, cls: type, **options) -> torch.nn.Module | StableDiffusionXLPipeline:
    try:
        return cls.from_pretrained(name, use_safetensors=True, **options)
    except Exception as error:  # any failure here is about the files, which are somebody else's
        raise UserError(f"{what} {name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _check_parts(name: str, pipe: StableDiffusionXLPipeline) -> None:
    for part, encoder in (("tokenizer", pipe.text_encoder), ("tokenizer_2", pipe.text_encoder_2)):
        words, wanted = len(getattr(pipe, part) or ()), encoder.config.vocab_size
        if words < wanted / 2:  # transformers makes one without words, silently, where the files are missing
            raise UserError(
                f"base model {name}: its {part} is missing or broken ({words} words, its text encoder has "
                f"{wanted}); download or copy the model again"
            )
    if pipe.unet.config.addition_embed_type != "text_time":
        raise UserError(
            f"base model {name}: its UNet has no text_time conditioning; an SDXL base model is needed"
        )
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise UserError(
            f"base model {name}: the UNet reads {pipe.unet.config.in_channels} channels, the VAE makes "
            f"{pipe.vae.config.latent_channels}; they do not fit together"
        )
    if pipe.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"base model {name}: prediction type {pipe.scheduler.config.prediction_type!r} is not "
            "supported; epsilon and v_prediction are"
        )


def empty_unet(base_model: str) -> UNet2DConditionModel:
    """The base model's UNet without its weights (meta device): the sizes of its layers. Raises UserError."""
    _check_folder("base model", base_model, "model_index.json", "StableDiffusionXLPipeline")
    try:
        config = UNet2DConditionModel.load_config(base_model, subfolder="unet")
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config)
    except Exception as error:  # as in _read
        raise UserError(
            f"base model {base_model}: its UNet cannot be read: {' '.join(str(error).split())[:300]}"
        ) from error


def check_base(expected: str, unet: UNet2DConditionModel, what: str, base_model: str) -> None:
    """Raises UserError unless `unet` has the architecture whose hash is `expected`."""
    if expected != unet_hash(unet):
        raise UserError(
            f"{what} was made for another UNet (hash {expected[:12]}) than that of {base_model} "
            f"({unet_hash(unet)[:12]}): give --base-model as it was in training"
        )


def check_size(pipe: StableDiffusionXLPipeline, size: int, flag: str) -> None:
    """Raises UserError, naming `flag`, unless pictures of `size` pixels pass through VAE and UNet."""
    unit = vae_factor(pipe.vae) * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if size % unit:
        raise UserError(f"{flag} {size}: this base model needs a multiple of {unit} pixels")


def vae_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent, along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def encode_prompts(pipe: StableDiffusionXLPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Prompts (k) -> hidden states of both text encoders (k, tokens, width), pooled one (k, pooled width)."""
    hidden, _, pooled, _ = pipe.encode_prompt(
        list(prompts), device=pipe.text_encoder.device, do_classifier_free_guidance=False
    )
    return hidden, pooled


@torch.no_grad()
def encode_guided(
    pipe: StableDiffusionXLPipeline, prompts: Sequence[str], negative: str | None
) -> dict[str, Tensor]:
    """The four embeddings of guided sampling, named as in the pipeline's call, in the UNet's dtype."""
    encoded = pipe.encode_prompt(
        list(prompts),
        device=pipe.text_encoder.device,
        negative_prompt=None if negative is None else [negative] * len(prompts),
    )
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    return {name: tensor.to(pipe.unet.dtype) for name, tensor in zip(names, encoded, strict=True)}


def _shift_and_scale(vae: AutoencoderKL, like: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, scale), each broadcastable to latents: normalized = (latents - mean) * scale."""
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or std is None:
        return like.new_zeros(()), like.new_tensor(vae.config.scaling_factor)
    return like.new_tensor(mean)[:, None, None], vae.config.scaling_factor / like.new_tensor(std)[
        :, None, None
    ]


@torch.no_grad()
def encode_images(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures (k, 3, H, W) in [-1, 1] -> normalized latents (k, c, h, w) float32: the posterior's mean."""
    latents = vae.encode(pixels.to(vae.device, torch.float32)).latent_dist.mode()
    mean, scale = _shift_and_scale(vae, latents)
    return (latents - mean) * scale


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor) -> list[Image.Image]:
    """Normalized latents (k, c, h, w) -> k pictures; the VAE runs in float32 and one by one."""
    mean, scale = _shift_and_scale(vae, latents.float())
    pixels = torch.cat([vae.decode(z[None]).sample for z in (latents.float() / scale + mean).to(vae.device)])
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in levels]


def time_ids(picture: Picture, size: int) -> Tensor:
    """SDXL's size conditioning (6,): original height, width; crop's top, left; target height, width."""
    return torch.tensor([*picture.original_size, *picture.crop_top_left, size, size], dtype=torch.float32)


@dataclass(frozen=True)
class Cache:
    """All that the loop reads of pictures and prompts, encoded once; row i of each belongs to picture i."""

    latents: Tensor  # (pictures, c, h, w) float32
    hidden: Tensor  # (prompts, tokens, width)
    pooled: Tensor  # (prompts, pooled width)
    prompt: Tensor  # (pictures,) index into hidden and pooled
    time_ids: Tensor  # (pictures, 6)

    def conditioning(self, rows: Tensor) -> dict:
        """What the UNet's call takes besides latents and timesteps, for pictures `rows` (k,)."""
        prompt = self.prompt[rows]
        added = {"text_embeds": self.pooled[prompt], "time_ids": self.time_ids[rows]}
        return {"encoder_hidden_states": self.hidden[prompt], "added_cond_kwargs": added}


def prepare(
    pipe: StableDiffusionXLPipeline,
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    device: torch.device | str = "cpu",
) -> Cache:
    """Encode `pictures` and their `prompts` (one each) on `device`; equal prompts once.

    Text encoders and VAE go to the device for it, the UNet does not: it finds there the room that they leave.
    """
    for part in (pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        part.to(device)
    unique = list(dict.fromkeys(prompts))
    hidden, pooled = encode_prompts(pipe, unique)
    size, dtype = pictures[0].pixels.shape[-1], pipe.unet.dtype
    return Cache(
        latents=torch.cat([encode_images(pipe.vae, picture.pixels[None]) for picture in pictures]).to(device),
        hidden=hidden.to(device, dtype),
        pooled=pooled.to(device, dtype),
        prompt=torch.tensor([unique.index(prompt) for prompt in prompts], device=device),
        time_ids=torch.stack([time_ids(picture, size) for picture in pictures]).to(device, dtype),
    )


def free(pipe: StableDiffusionXLPipeline, keep_vae: bool = False) -> None:
    """Let go of text encoders and VAE: training needs the UNet only (previews need the VAE too)."""
    pipe.text_encoder = pipe.text_encoder_2 = None
    if not keep_vae:
        pipe.vae = None
    free_memory()
