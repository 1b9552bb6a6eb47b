"""Images from prompts and seeds, for generate, previews, evaluation and studies alike."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..backbones.protocol import Backbone, Draws
from ..backbones.registry import open_backbone
from ..config.fields import deciding, sides
from ..config.sampling import DrawnWith
from ..core.errors import UserError, note
from ..core.storage import write_atomic
from ..data.findings import brief, quoted
from ..files.merging import merge
from ..files.opening import open_role
from ..maths.composing import COMPOSING, composed_weights
from .attach import attach, dials, folding
from .composed import composed
from .told import told

PIXELS_AT_ONCE = 4 * 1024 * 1024  # of one batch: four images of SDXL's own size
SAMPLES_AT_ONCE = 16
MOST_LCM = 2  # guidance, above which images of latent consistency models burn out
DRAWN_WITH = tuple(f.name for f in deciding(DrawnWith, paths=True))


def sample(
    backbone: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = 5.0,
    size: int | str | None = None,
    content_strength: float = 1.0,
    style_strength: float = 1.0,
    negative_prompt: str | None = None,
    embeddings: dict[str, Tensor] | None = None,
    negative: str = "adapted",
    compose: str = "weights",
    scheduler: str = "euler",
    more_strengths: Sequence[float] = (),
) -> list[Image.Image]:
    """One image per prompt and seed (lists of one length), of `size` pixels: a side, or "1216x832".

    An image starts from its own seed's noise, whatever else is in its batch. Euler steps as in the paper, or those of
    another `scheduler`, a key of `backbones.noise.SAMPLERS`. guidance <= 1: none, a step is one prediction.
    embeddings: `encode_guided` of the prompts, for a backbone whose text encoders are gone.
    negative: what guidance leads away from, the base model ("base") or the one with the files on it ("adapted").
    compose: how content and style come together, a key of `maths.composing.COMPOSING`.
    more_strengths: of what `attach` was given besides, in its order.
    Raises UserError for a size the model cannot draw, and for dials and a scheduler that the file cannot follow.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts for {len(seeds)} seeds")
    pipe = backbone.pipe
    width, height = sides(size or pipe.unet.config.sample_size * pipe.vae_scale_factor)
    for side in (width, height):
        backbone.check_size(side, "--size")
    if backbone.attached is None:
        dials(backbone, content_strength, style_strength)  # refuses what would say nothing
    if isinstance(backbone.attached, Draws) and scheduler != "euler":
        raise UserError(f"--scheduler {scheduler}: this file draws in a way of its own; leave it out")
    strengths = (content_strength, style_strength, *more_strengths)
    asked, unadapted = COMPOSING[compose](*strengths), composed_weights(*[0.0] * len(strengths))
    at_once = max(1, min(SAMPLES_AT_ONCE, PIXELS_AT_ONCE // (width * height)) // len(asked))
    images = []
    with _sampler(backbone, steps, scheduler), folding(backbone):
        for start in range(0, len(prompts), at_once):
            some = slice(start, start + at_once)
            if embeddings is None:
                encoded = backbone.encode_guided(prompts[some], negative_prompt, guided=guidance > 1)
            else:
                encoded = {name: tensor[some] for name, tensor in embeddings.items()}
            answers = [asked] * len(seeds[some])
            if guidance > 1:
                answers = [unadapted if negative == "base" else asked] * len(answers) + answers
            with composed(backbone, answers) if backbone.attached else nullcontext() as arguments:
                if isinstance(backbone.attached, Draws):
                    latents = backbone.attached.draw(prompts[some], steps, guidance, width, height)
                    images += backbone.decode_latents(latents)
                    continue
                with told(backbone, prompts[some]):
                    latents = pipe(
                        **encoded,
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        height=height,
                        width=width,
                        generator=[torch.Generator().manual_seed(seed) for seed in seeds[some]],
                        output_type="latent",
                        cross_attention_kwargs=arguments,
                    ).images
            images += backbone.decode_latents(latents)
    return images


@contextmanager
def _sampler(backbone: Backbone, steps: int, scheduler: str) -> Iterator[None]:
    """The pipeline with the sampler that is asked for, and afterwards with its own again."""
    pipe = backbone.pipe
    own, pipe.scheduler = pipe.scheduler, backbone.sampler(steps, scheduler)
    try:
        yield
    finally:
        pipe.scheduler = own


def open_for(config: DrawnWith) -> Backbone:
    """The base model that `config` names, on the GPU if there is one; nothing attached yet. Raises UserError."""
    opened = open_role(config.base_lora, "lora", config.strict) if config.base_lora else None
    backbone = open_backbone(config.base_model, config.vae, config.mixed_precision)
    if opened:
        merge(opened, backbone.denoiser, config.base_model)
    return backbone.to("cuda") if torch.cuda.is_available() else backbone


def attach_for(backbone: Backbone, config: DrawnWith) -> None:
    """The files that `config` names onto the base model, in place of what was there. Raises UserError."""
    attach(
        backbone, config.content_file, config.style_file, config.lora_file, config.strict, config.more_files
    )


def sample_with(
    backbone: Backbone, config: DrawnWith, prompts: Sequence[str], seeds: Sequence[int]
) -> list[Image.Image]:
    """`sample` with the steps, scheduler, guidance, size, dials and negative branch of `config`.

    Raises UserError for a prompt whose end the model would not read.
    """
    _say_odd(config)
    _check_read(backbone, dict.fromkeys([*prompts, config.negative_prompt or ""]))
    return sample(
        backbone,
        prompts,
        seeds,
        config.steps,
        config.guidance,
        config.size,
        config.content_strength,
        config.style_strength,
        config.negative_prompt,
        negative=config.negative,
        compose=config.compose,
        scheduler=config.scheduler,
        more_strengths=config.more_strengths or (1.0,) * len(config.more_files),
    )


def _say_odd(config: DrawnWith) -> None:
    """Settings that hardly go together."""
    given = f"--guidance {config.guidance:g}"
    if config.guidance <= 1 and config.negative_prompt:
        note(f"{given}: nothing is led away from, so --negative-prompt says nothing")
    if config.guidance > MOST_LCM and config.scheduler == "lcm":
        note(f"{given} and --scheduler lcm: models that were distilled for it are drawn with 1 to {MOST_LCM}")


def _check_read(backbone: Backbone, prompts: Iterable[str]) -> None:
    """Raises UserError, with the words that would be cut off, unless the model reads all of each prompt."""
    prompts = list(prompts)
    cut = backbone.cut_off(prompts)
    for prompt, rest in zip(prompts, cut.words, strict=True):
        if rest:
            which = quoted(f"{prompt[:30]} ...")
            raise UserError(
                f"prompt {which}: longer than the {cut.limit} tokens that {backbone.name} reads, cut off would be "
                f"{quoted(brief(rest))}; shorten it"
            )


def drawn_with(config: DrawnWith) -> dict[str, str]:
    """The settings that decide an image, where they are given, as text."""
    values = {name: getattr(config, name) for name in DRAWN_WITH}
    return {name: str(value) for name, value in values.items() if value not in (None, ())}


def save_png(path: Path, image: Image.Image, facts: dict[str, str], replace: bool = True) -> None:
    """Write one PNG with `facts` as its text entries, atomically. Raises Taken as `write_atomic` does."""
    info = PngInfo()
    for name, value in facts.items():
        info.add_itxt(name, value)
    write_atomic(path, lambda partial: image.save(partial, "PNG", pnginfo=info), replace)
