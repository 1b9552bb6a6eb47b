"""Sampling, for infer.py, previews and evaluation alike: attach files to a pipeline, draw, lay out a grid."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .adapter import Adapter, PLPAttnProcessor
from .checkpoint import check_pair, load_concept, load_lora, split_lora, write_atomic
from .config import GenerateConfig
from .errors import UserError
from .lora_file import check_layers, read_spec
from .measure_config import EvaluateConfig
from .plp import HALVES
from .sdxl import DTYPES, check_base, check_size, decode_latents, encode_guided, load_base

PIXELS_AT_ONCE = 4 * 1024 * 1024  # of one batch: four pictures of SDXL's own size
ROWS_AT_ONCE = 16
Drawn = GenerateConfig | EvaluateConfig
DRAWN_WITH = (  # settings that decide what a picture looks like, besides prompt and seed
    "base_model",
    "vae",
    "content_file",
    "style_file",
    "lora_file",
    "negative_prompt",
    "steps",
    "guidance",
    "size",
    "content_strength",
    "style_strength",
    "mixed_precision",
)


def attach(
    pipe: StableDiffusionXLPipeline,
    content_file: str | None = None,
    style_file: str | None = None,
    lora_file: str | None = None,
) -> None:
    """Put a content, a style, both composed, or a LoRA file onto the UNet, in place of what was there.

    A fused file of ours is split into its halves again, both dials work; other LoRAs load through peft.
    Raises UserError: unreadable files, files that do not compose, files of another UNet.
    """
    detach(pipe)
    if lora_file is not None:
        _attach_lora(pipe, lora_file)
        return
    files = {
        kind: file for kind, file in (("content", content_file), ("style", style_file)) if file is not None
    }
    concepts = {kind: load_concept(file) for kind, file in files.items()}
    for kind, concept in concepts.items():
        if concept.kind != kind:
            raise UserError(f"{files[kind]}: holds a {concept.kind}, and was given as the {kind} file")
        check_base(concept.unet_hash, pipe.unet, files[kind], pipe.name_or_path)
    if len(concepts) == 2:
        check_pair(concepts["content"], concepts["style"])
    if concepts:
        first = next(iter(concepts.values()))
        halves = {kind: concept.tensors for kind, concept in concepts.items()}
        _install(pipe, first.spec, first.layers, halves)


def _attach_lora(pipe: StableDiffusionXLPipeline, lora_file: str) -> None:
    layers, metadata = load_lora(lora_file)
    spec = read_spec(lora_file, metadata)
    if spec is not None and "b4m.layers" in metadata:
        check_base(metadata.get("b4m.unet_hash", ""), pipe.unet, lora_file, pipe.name_or_path)
        _install(pipe, spec, metadata["b4m.layers"], dict(zip(HALVES, split_lora(layers, spec), strict=True)))
        return
    check_layers(lora_file, layers, pipe.unet, pipe.name_or_path)  # Diffusers would only warn of some
    state = {
        f"unet.{layer}.lora_{half}.weight": tensor
        for layer, (up, down) in layers.items()
        for half, tensor in (("A", down), ("B", up))
    }
    pipe.load_lora_weights(state)


def _install(
    pipe: StableDiffusionXLPipeline, spec, layers: str, halves: dict[str, dict[str, Tensor]]
) -> None:
    adapter = Adapter.install(pipe.unet, spec, layers)
    for kind, tensors in halves.items():
        adapter.load_half(kind, tensors)
    adapter.to(pipe.unet.device)


def detach(pipe: StableDiffusionXLPipeline) -> None:
    """Take off whatever `attach` put on: the base model again."""
    if has_dials(pipe):
        pipe.unet.set_attn_processor(AttnProcessor2_0())
    if getattr(pipe.unet, "peft_config", None):
        pipe.unload_lora_weights()


def has_dials(pipe: StableDiffusionXLPipeline) -> bool:
    """Whether content and style strength can be set apart from each other."""
    return any(isinstance(processor, PLPAttnProcessor) for processor in pipe.unet.attn_processors.values())


def _strengths(pipe: StableDiffusionXLPipeline, content: float, style: float) -> dict[str, float] | None:
    """The dials as `cross_attention_kwargs`. Raises UserError where the file cannot follow them."""
    if has_dials(pipe):
        return {"content_strength": content, "style_strength": style}
    if content != style:
        raise UserError(
            f"content strength {content} and style strength {style}: this LoRA cannot be split into content "
            "and style (or none is loaded), so both dials must have one value"
        )
    return {"scale": content} if getattr(pipe.unet, "peft_config", None) else None


def sample(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = 5.0,
    size: int | None = None,
    content_strength: float = 1.0,
    style_strength: float = 1.0,
    negative_prompt: str | None = None,
    embeddings: dict[str, Tensor] | None = None,
) -> list[Image.Image]:
    """One picture per prompt and seed (lists of one length), `size` pixels wide and high.

    A picture starts from its own seed's noise, whatever else is in its batch. Euler steps as in the paper.
    embeddings: `encode_guided` of the prompts, for a pipeline whose text encoders are gone.
    Raises UserError for a size the model cannot draw and dials the file cannot follow.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts for {len(seeds)} seeds")
    size = size or pipe.default_sample_size * pipe.vae_scale_factor
    check_size(pipe, size, "--size")
    kwargs = _strengths(pipe, content_strength, style_strength)
    scheduler, pipe.scheduler = pipe.scheduler, EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    at_once = max(1, min(ROWS_AT_ONCE, PIXELS_AT_ONCE // size**2))
    pictures = []
    try:
        for start in range(0, len(prompts), at_once):
            rows = slice(start, start + at_once)
            if embeddings is None:
                encoded = encode_guided(pipe, prompts[rows], negative_prompt)
            else:
                encoded = {name: tensor[rows] for name, tensor in embeddings.items()}
            latents = pipe(
                **encoded,
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=size,
                width=size,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[rows]],
                output_type="latent",
                cross_attention_kwargs=kwargs,
            ).images
            pictures += decode_latents(pipe.vae, latents)
    finally:
        pipe.scheduler = scheduler
    return pictures


def open_pipe(config: Drawn) -> StableDiffusionXLPipeline:
    """The base model that `config` names, on the GPU if there is one; nothing attached yet."""
    pipe = load_base(config.base_model, config.vae, DTYPES[config.mixed_precision])
    return pipe.to("cuda") if torch.cuda.is_available() else pipe


def sample_with(
    pipe: StableDiffusionXLPipeline, config: Drawn, prompts: Sequence[str], seeds: Sequence[int]
) -> list[Image.Image]:
    """`sample` with the steps, guidance, size, dials and negative prompt of `config`."""
    return sample(
        pipe,
        prompts,
        seeds,
        config.steps,
        config.guidance,
        config.size,
        config.content_strength,
        config.style_strength,
        config.negative_prompt,
    )


def generate(config: GenerateConfig) -> list[Path]:
    """Every prompt with every seed -> PNG files with their settings inside; their paths, the grid's last."""
    pipe = open_pipe(config)
    attach(pipe, config.content_file, config.style_file, config.lora_file)
    prompts = [prompt for prompt in config.prompts for _ in config.seeds]
    seeds = [*config.seeds] * len(config.prompts)
    pictures = sample_with(pipe, config, prompts, seeds)
    folder = Path(config.output_dir)
    paths = []
    for index, (picture, prompt, seed) in enumerate(zip(pictures, prompts, seeds, strict=True)):
        paths.append(folder / f"{index:03d}_seed{seed}.png")
        save_png(paths[-1], picture, _facts(config, prompt, seed))
    if config.grid:
        paths.append(folder / "grid.png")
        labels = [f"seed {seed}" for seed in config.seeds]
        save_png(paths[-1], grid(pictures, len(config.seeds), config.prompts, labels), _facts(config))
    return paths


def _facts(config: GenerateConfig, prompt: str | None = None, seed: int | None = None) -> dict[str, str]:
    """What a picture was made with, for its PNG text."""
    facts = {} if prompt is None else {"prompt": prompt, "seed": str(seed)}
    return {**facts, **drawn_with(config)}


def drawn_with(config: Drawn) -> dict[str, str]:
    """The settings of DRAWN_WITH that are given, as text."""
    values = {name: getattr(config, name) for name in DRAWN_WITH}
    return {name: str(value) for name, value in values.items() if value is not None}


def save_png(path: Path, picture: Image.Image, facts: dict[str, str]) -> None:
    """Write one PNG with `facts` as its text entries, atomically."""
    info = PngInfo()
    for name, value in facts.items():
        info.add_itxt(name, value)
    write_atomic(path, lambda partial: picture.save(partial, "PNG", pnginfo=info))


def grid(
    images: Sequence[Image.Image],
    columns: int,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Pictures of one size, row by row, with labels left and above; small ones are enlarged to be seen."""
    if not images or len(images) % columns:
        raise ValueError(f"{len(images)} pictures do not fill rows of {columns}")
    cell = max(128, images[0].width)
    font = ImageFont.load_default(size=max(14, cell // 11))
    left = cell if row_labels else 0
    lines = [_wrap(label, font, cell - 8) for label in column_labels]
    line_height = math.ceil(font.size * 1.25)
    top = line_height * max((len(line) for line in lines), default=0) + (8 if lines else 0)
    rows = len(images) // columns
    sheet = Image.new("RGB", (left + columns * (cell + 4), top + rows * (cell + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        enlarged = image.resize(
            (cell, cell), Image.Resampling.NEAREST if cell % image.width == 0 else Image.Resampling.LANCZOS
        )
        sheet.paste(enlarged, (left + column * (cell + 4), top + row * (cell + 4)))
    for column, text in enumerate(lines):
        draw.multiline_text((left + column * (cell + 4) + 4, 4), "\n".join(text), fill="black", font=font)
    for row, label in enumerate(row_labels):
        text = "\n".join(_wrap(label, font, cell - 8))
        draw.multiline_text((4, top + row * (cell + 4) + 4), text, fill="black", font=font)
    return sheet


def _wrap(label: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The label in lines that fit into `width` pixels; a word that is too long stands alone."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
