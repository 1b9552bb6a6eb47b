"""Prior preservation (Ruiz et al. 2023, Sec. 3.2): the base model's own images of a class, learned beside a concept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from ..backbones.protocol import Backbone
from ..core.errors import UserError
from ..core.storage import reason
from ..data.images import whole
from ..data.inputs import Inputs, Source
from ..files.opening import open_any
from .class_images import AT_ONCE, class_prompt, draw, save_class_images

PRIOR = "prior.safetensors"
STEPS = 25
NAMELESS = {"content": "object", "style": "art"}  # what a class is called by those who do not say


def with_prior(inputs: Inputs, config: Any) -> Inputs:
    """The inputs with a sample of the class beside each of the target's; its images are still to be drawn.

    Raises UserError where the settings do not say what the class is.
    """
    count, kind = config.prior_images, config.stage
    if not count:
        return inputs
    prompt = _check_class(config)
    first = len(inputs.images)
    image = replace(whole(config.resolution), path=Path(config.output_dir) / PRIOR)
    source = Source(kind, False, tuple(range(first, first + count)), config.target_rows, prior=True)
    return replace(
        inputs,
        sources=(*inputs.sources, source),
        images=(*inputs.images, *[image] * count),
        prompts=(*inputs.prompts, *[prompt] * count),
        prior_weight=config.prior_weight,
    )


def _check_class(config: Any) -> str:
    """The prompt of the class."""
    kind, given = config.stage, f"--prior-images {config.prior_images}"
    word, trigger = getattr(config, f"{kind}_class"), getattr(config, f"{kind}_trigger")
    if not config.prompt and word.strip() in ("", NAMELESS[kind]):
        raise UserError(f"{given}: images of which class? Say what the {kind} is with --{kind}-class")
    prompt = class_prompt(config, kind)
    if config.prompt and prompt == " ".join(config.prompt.split()):
        raise UserError(
            f"{given}: the class is drawn from the prompt without the trigger word, and {config.prompt!r} does not "
            f"hold the word {trigger}; put it into --prompt, apart from other words"
        )
    return prompt


def draw_prior(inputs: Inputs, config: Any, backbone: Backbone) -> Inputs:
    """The inputs with the images of the class as latents: those of an earlier run in this folder, else drawn now.

    One process draws, the others read its file. Raises UserError where the disk refuses.
    """
    count = config.prior_images
    if not count:
        return inputs
    with PartialState().main_process_first():
        latents = _latents(config, backbone)
    own, placeholders = inputs.images[:-count], inputs.images[-count:]
    drawn = [replace(image, latents=z) for image, z in zip(placeholders, latents, strict=True)]
    return replace(inputs, images=(*own, *drawn))


def _latents(config: Any, backbone: Backbone) -> Tensor:
    """(count, c, h, w) float32. Written after every batch, so that a run that is stopped here goes on where it was."""
    path, count, kind = Path(config.output_dir) / PRIOR, config.prior_images, config.stage
    prompt, size = class_prompt(config, kind), config.resolution
    made_with = {
        "base_model": config.base_model,
        "seed": str(config.seed),
        "resolution": str(size),
        "precision": config.mixed_precision,
        "guidance": str(config.prior_guidance),
        "class_prompt": prompt,
    }
    found = _found(path, made_with)
    if len(found) == count:
        return found
    parts = [*found[:count].split(AT_ONCE)] if len(found) else []
    parts = [part for part in parts if len(part) == AT_ONCE]  # whose bits are those of one go
    there = AT_ONCE * len(parts)
    with tqdm(total=count, initial=there, desc="prior images") as bar:
        seeds = range(config.seed + there, config.seed + count)
        for some in draw(backbone, [prompt] * len(seeds), seeds, size, STEPS, config.prior_guidance):
            parts.append(some)
            save_class_images(path, kind, prompt, torch.cat(parts), backbone, made_with)
            bar.update(len(some))
    backbone.to("cpu")  # where a model starts from
    return torch.cat(parts)


def _found(path: Path, made_with: dict[str, str]) -> Tensor:
    """What an earlier run has drawn with these settings; what is damaged, or of others, is drawn anew."""
    nothing = torch.empty(0)
    if not path.exists():
        return nothing
    try:
        opened = open_any(path)
    except UserError as error:
        tqdm.write(f"{path}: drawn anew ({reason(error)})")
        return nothing
    same = all(opened.metadata.get(f"b4m.{name}") == value for name, value in made_with.items())
    return opened.tensors.get("latents", nothing) if same else nothing
