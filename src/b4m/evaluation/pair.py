"""A content and a style on their base model, and the noise states at which their predictions are compared."""

from collections.abc import Mapping, Sequence

import torch

from ..backbones.protocol import Backbone
from ..backbones.registry import open_backbone
from ..core.errors import UserError
from ..data.images import load_folder
from ..files.concept import check_pair
from ..files.opening import Opened, open_role
from ..sampling.attach import attach, detach
from ..sampling.states import States, drawn, noised

LEVELS = 9  # of noise
SEEDS = range(4)  # of the images that the base draws of each prompt


def on_base(
    content_file: str,
    style_file: str,
    base_model: str | None = None,
    content_dir: str | None = None,
    prompts: Sequence[str] = (),
) -> tuple[Backbone, list[States]]:
    """The pair's base model with both attached, and states at LEVELS noise levels under prompts that call both.

    content_dir: references to put under noise; None: images that the base draws of the prompts. base_model: None for
    the one that the content names. Either file is a concept file, or a LoRA from anywhere.
    Raises UserError for files that cannot be read, do not compose or name too little.
    """
    opened = {"content": open_role(content_file, "content"), "style": open_role(style_file, "style")}
    content, style = (_facts(role, file) for role, file in opened.items())
    concepts = [file.concept for file in opened.values() if file.concept]
    if len(concepts) == 2:
        check_pair(*concepts)
    base_model = base_model or content.get("base_model")
    if base_model is None:
        raise UserError(f"{content_file}: names no base model; say with --base-model what it was made for")
    prompts = list(prompts) or [joint_prompt(content, style)]
    backbone = open_backbone(base_model)
    backbone = backbone.to("cuda") if torch.cuda.is_available() else backbone
    attach(backbone, content_file, style_file)  # what does not go on is refused before anything is drawn
    detach(backbone)
    if content_dir is None:
        asked = [prompt for prompt in prompts for _ in SEEDS]
        states = drawn(backbone, asked, [*SEEDS] * len(prompts), LEVELS)
    else:
        images = load_folder(content_dir, int(content.get("resolution", 512)))
        asked = [prompts[number % len(prompts)] for number in range(len(images))]
        states = noised(backbone, images, asked, LEVELS)
    attach(backbone, content_file, style_file)
    return backbone, states


def joint_prompt(content: Mapping[str, str], style: Mapping[str, str]) -> str:
    """What calls both: "a photo of snq bear" and "a picture in w@z chalk style" as "snq bear in w@z chalk style".

    The word photo would ask for what is no chalk. Raises UserError.
    """
    of_content, of_style = (facts.get("prompt") for facts in (content, style))
    if not of_content or not of_style:
        raise UserError("a file names no prompt of its own: say with --prompts what calls the two together")
    return f"{of_content.removeprefix('a photo of ')} {of_style.removeprefix('a picture ')}"


def _facts(role: str, file: Opened) -> Mapping[str, str]:
    """What a file says of itself: its prompt, base model and resolution. Raises UserError for a method's file."""
    if file.concept:
        return file.concept.metadata
    if file.kind == "method":
        raise UserError(f"{file.where}: a file of the method {file.method}; give a concept file or a LoRA")
    ours = {
        name.removeprefix("b4m."): value for name, value in file.metadata.items() if name.startswith("b4m.")
    }
    return {**ours, "prompt": ours.get(f"{role}_prompt", "")}
