"""What a model card says of a file, read from the file itself."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...backbones.latent_diffusion import denoiser_hash
from ...backbones.published import PUBLISHED
from ...backbones.registry import family_of
from ...config.presets import EMBEDDED
from ...core.errors import UserError, note, printable
from ...files.lora import triggers
from ...files.opening import Opened, open_any
from .settings import on_hub

LONGEST = 300  # characters of one text of a stranger's
MOST = 40  # settings that are shown
# Shown elsewhere on the card, of no use to a reader, or names of places on somebody's machine.
LEFT_OUT = re.compile(
    r"(?:\w+_)?(?:base_model|prompt|trigger|sha256|unet_hash|format|kind|vae)|\w+_(?:dir|file)s?"
)


@dataclass(frozen=True)
class About:
    """One file. Every text is one printable line."""

    path: Path
    kind: str  # "content", "style", "fused" or "LoRA"
    base: str | None  # its base model's name on the hub; None: the embedded base, or unknown
    embedded: bool  # made for the base that comes with b4m
    made_for: tuple[str, ...]  # published models that have its layers
    example_base: str | None  # one of these on the hub
    kohya: bool  # spelled as ComfyUI and A1111 expect
    triggers: tuple[str, ...]
    prompts: tuple[str, ...]
    settings: Mapping[str, str]

    @property
    def name(self) -> str:
        """In the repository: letters and digits, whatever it is called here."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", self.path.stem).strip("-")[:80]
        return f"{stem or 'lora'}.safetensors"

    @property
    def concept(self) -> bool:
        """One trained half, which b4m alone can read."""
        return self.kind in ("content", "style")


def about(path: str, base_model: str | None = None) -> About:
    """Read and verify. base_model: a name on the hub that counts more than what the file says. Raises UserError."""
    opened = open_any(path)
    _check(opened)
    said = {key.removeprefix("b4m."): value for key, value in opened.metadata.items() if key[:4] == "b4m."}
    named = [said[key] for key in ("base_model", "content_base_model", "style_base_model") if said.get(key)]
    embedded = _is_embedded(said.get("unet_hash"), named)
    base = base_model or (named[0].partition("@")[0] if named else None)
    if embedded and base_model:
        raise UserError(
            f"{path}: made for the embedded base, which is not on the hub; leave out --base-model"
        )
    if any(Path(name).is_absolute() for name in named):
        note(f"{path}: its header names its base model by a folder of this machine, which others will see")
    made_for = opened.contents.made_for
    known = [name for one in PUBLISHED if one.title in made_for for name in one.names]
    return About(
        path=Path(opened.where),
        kind=opened.kind,
        base=base if base and not embedded and on_hub(base) and not Path(base).exists() else None,
        embedded=embedded,
        made_for=made_for,
        example_base=known[-1] if known else None,
        kohya=any(name.startswith("kohya") for name in opened.dialects),
        triggers=_lines(triggers(opened.metadata)),
        prompts=_lines(said[key] for key in ("prompt", "content_prompt", "style_prompt") if key in said),
        settings=_settings(said),
    )


def line(text: object) -> str:
    """One printable line of it, not endless."""
    whole = printable(text)
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]}..."


def _lines(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(line(text) for text in texts if text.strip())


def _check(opened: Opened) -> None:
    if opened.kind == "method":
        raise UserError(
            f"{opened.where}: a file of the method {opened.method}, which no other tool reads; "
            "push a content, style or LoRA file"
        )
    if opened.contents.others:
        raise UserError(
            f"{opened.where}: a {opened.contents.kind}, for which a card would name no true way to load it; "
            "push a plain LoRA"
        )


def _is_embedded(unet_hash: str | None, named: list[str]) -> bool:
    """By the hash of the UNet's configuration, where the file has one, since folders are moved."""
    if unet_hash is None:
        return EMBEDDED in named
    return unet_hash == denoiser_hash(family_of(EMBEDDED).empty_denoiser(EMBEDDED))


def _settings(said: Mapping[str, str]) -> dict[str, str]:
    kept = [
        key for key in sorted(said) if re.fullmatch(r"[a-z0-9_]{1,40}", key) and not LEFT_OUT.fullmatch(key)
    ]
    return {key: line(said[key]) for key in kept[:MOST]}
