"""Trained files onto a base model and off again, whichever method made them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from ..backbones.latent_diffusion import check_base
from ..backbones.protocol import Backbone, BySample, Folds
from ..core.errors import UserError
from ..files.contents import Contents
from ..files.export import as_layers
from ..files.opening import BASE, Opened, open_beside, open_role
from ..maths.composing import Strength
from ..methods.registry import METHODS, method


def attach(
    backbone: Backbone,
    content_file: str | None = None,
    style_file: str | None = None,
    lora_file: str | None = None,
    strict: bool = False,
    more: Sequence[str] = (),
) -> None:
    """Put a content, a style, both composed, or a LoRA file onto the denoiser, in place of what was there.

    A fused file of ours is split into its factors again, both dials work; other LoRAs load through peft. strict: a LoRA
    file of which a part would be left out is refused. more: concepts of either kind and any basis, fused files, LoRAs;
    then, and where a concept goes with a LoRA, each goes on as the LoRA that it is.
    Raises UserError: unreadable files, files that do not compose, files of another base model or method.
    """
    detach(backbone)
    given = {"content": content_file, "style": style_file, "lora": lora_file}
    files = {role: open_role(path, role, strict) for role, path in given.items() if path is not None}
    files |= {f"more{number}": open_beside(path, strict) for number, path in enumerate(more)}
    if not files:
        return
    if more or {opened.method for opened in files.values()} == {"b4m", "lora"}:
        files = {role: _as_lora(opened, backbone) for role, opened in files.items()}
    methods = {opened.method: opened.where for opened in files.values()}
    if len(methods) > 1:
        told = ", ".join(f"{where} of {name}" for name, where in methods.items())
        raise UserError(f"files of different methods do not go together: {told}")
    name, where = next(iter(methods.items()))
    if name not in METHODS.names():
        raise UserError(f"{where}: a file of the method {name}; install the package that brings this method")
    for opened in files.values():
        if opened.kind == "method":
            check_base(opened.metadata.get(BASE, ""), backbone.denoiser, opened.where, backbone.name)
    backbone.attached = method(name).attach(backbone, files)


def _as_lora(opened: Opened, backbone: Backbone) -> Opened:
    """A concept, or a fused file, as the LoRA that it is. Raises UserError for a concept of another base model."""
    if opened.kind == "fused":
        return replace(opened, method="lora", spec=None)
    if opened.concept is None:
        return opened
    check_base(opened.concept.unet_hash, backbone.denoiser, opened.where, backbone.name)
    layers = as_layers({opened.kind: opened.concept}, {opened.kind: 1.0}, backbone.denoiser)
    return replace(opened, kind="LoRA", method="lora", concept=None, spec=None, contents=Contents(layers))


def detach(backbone: Backbone) -> None:
    """Take off whatever `attach` put on: the base model again."""
    if backbone.attached is not None:
        backbone.attached.remove()
        backbone.attached = None


def folding(backbone: Backbone) -> AbstractContextManager[None]:
    """While it lasts, what is attached costs next to nothing where its dials stay as they are."""
    return backbone.attached.folding() if isinstance(backbone.attached, Folds) else nullcontext()


def dials(backbone: Backbone, content: Strength, style: Strength, *more: Strength) -> dict[str, Any] | None:
    """The strengths of all files, of all samples or of each, as `cross_attention_kwargs`.

    Raises UserError where they cannot be followed.
    """
    if isinstance(backbone.attached, BySample):
        return backbone.attached.arguments(content, style, *more)
    if isinstance(content, Sequence) or isinstance(style, Sequence):
        raise UserError(
            "--negative base and --compose predictions need concept files, a fused file or LoRAs: this file has one "
            "strength for a whole batch; give --negative adapted and --compose weights"
        )
    if backbone.attached is not None:
        return backbone.attached.arguments(content, style)
    if content != style:
        raise UserError(
            f"content strength {content} and style strength {style}: no file is loaded, so there is nothing to dial"
        )
    return None
