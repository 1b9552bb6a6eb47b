"""A content and a style on their base model, and the noise states at which their predictions are compared."""

from collections.abc import Sequence

import torch

from ..backbones.protocol import Backbone
from ..backbones.registry import open_backbone
from ..core.errors import UserError
from ..data.images import load_folder
from ..files.concept import Concept, check_pair
from ..files.opening import open_role
from ..sampling.attach import attach
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
    the one that the content names. Raises UserError for files that cannot be read, do not compose or name too little.
    """
    content, style = (_concept(*given) for given in ((content_file, "content"), (style_file, "style")))
    check_pair(content, style)
    base_model = base_model or content.metadata.get("base_model")
    if base_model is None:
        raise UserError(f"{content_file}: names no base model; say with --base-model what it was made for")
    prompts = list(prompts) or [joint_prompt(content, style)]
    backbone = open_backbone(base_model)
    backbone = backbone.to("cuda") if torch.cuda.is_available() else backbone
    if content_dir is None:
        asked = [prompt for prompt in prompts for _ in SEEDS]
        states = drawn(backbone, asked, [*SEEDS] * len(prompts), LEVELS)
    else:
        images = load_folder(content_dir, int(content.metadata.get("resolution", 512)))
        asked = [prompts[number % len(prompts)] for number in range(len(images))]
        states = noised(backbone, images, asked, LEVELS)
    attach(backbone, content_file, style_file)
    return backbone, states


def joint_prompt(content: Concept, style: Concept) -> str:
    """What calls both: "a photo of snq bear" and "a picture in w@z chalk style" as one prompt. Raises UserError."""
    of_content, of_style = (concept.metadata.get("prompt") for concept in (content, style))
    if not of_content or not of_style:
        raise UserError("a file names no prompt of its own: say with --prompts what calls the two together")
    return f"{of_content} {of_style.removeprefix('a picture ')}"


def _concept(path: str, role: str) -> Concept:
    opened = open_role(path, role)
    if opened.concept is None:
        raise UserError(f"{path}: a file of the method {opened.method}; a {role} file of b4m is needed")
    return opened.concept
