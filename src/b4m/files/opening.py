"""The one door to every file that somebody has trained: what it is, verified, whatever it is called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diffusers import ModelMixin
from torch import Tensor

from ..backbones.latent_diffusion import denoiser_hash
from ..core.errors import UserError, note
from ..core.storage import fingerprint, read_tensors, write_tensors
from ..maths.plp import FACTORS, BasisSpec
from . import adapter_config
from .concept import Concept, read_concept
from .contents import Contents, Layers, read_contents, read_depth, settings_of
from .dialects import detect
from .fused import read_spec

FOLDERS = (adapter_config.TENSORS, "pytorch_lora_weights.safetensors")  # names that peft and Diffusers give
METHOD, ROLE, BASE, DIGEST = "b4m.method", "b4m.role", "b4m.unet_hash", "b4m.sha256"


@dataclass(frozen=True, eq=False)
class Opened:
    """A file's kind and what it holds.

    kind: "content" or "style" (a concept file), "fused" (a LoRA that names a basis of ours), "LoRA" (any other, or what
    `Contents.kind` calls it), "method" (tensors of a registered method). What does not apply is empty.
    """

    where: str  # its path, for an error line
    kind: str
    method: str  # the registered method that puts it on a base model
    tensors: Mapping[str, Tensor]  # as they are in the file
    metadata: Mapping[str, str]
    concept: Concept | None = None
    contents: Contents = field(default_factory=Contents)  # of a LoRA or one of its relatives
    spec: BasisSpec | None = None
    dialects: tuple[str, ...] = ()  # of a LoRA

    @property
    def layers(self) -> Layers:
        """Those that are plain LoRAs."""
        return self.contents.layers

    @property
    def role(self) -> str:
        """With which option it goes: "content", "style" or "lora"."""
        if self.kind == "method":
            return self.metadata.get(ROLE, "lora")
        return self.kind if self.kind in FACTORS else "lora"

    @property
    def from_elsewhere(self) -> bool:
        """Whether it is a LoRA, or a relative of one, that names no basis of ours."""
        return bool(self.dialects) and self.spec is None


def open_any(path: Path | str) -> Opened:
    """Read and verify a file, or the one in a folder of peft or Diffusers.

    Raises UserError for one that is none of these, or not whole and unchanged.
    """
    file = file_in(Path(path))
    where = str(file)
    tensors, metadata = read_tensors(file)
    if metadata.get("b4m.kind") in FACTORS:
        concept = read_concept(where, tensors, metadata)
        return Opened(where, concept.kind, "b4m", tensors, metadata, concept=concept, spec=concept.spec)
    if METHOD in metadata:
        _verify(where, tensors, metadata)
        return Opened(where, "method", metadata[METHOD], tensors, metadata)
    contents = read_contents(where, tensors, metadata, partial(settings_of, file, metadata))
    spec = read_spec(where, metadata)
    if spec is not None and contents.others:
        raise UserError(f"{where}: names a basis and holds a {contents.kind}; get the file again")
    return Opened(
        where,
        kind=contents.kind if spec is None else "fused",
        method="lora" if spec is None or "b4m.layers" not in metadata else "b4m",
        tensors=tensors,
        metadata=metadata,
        contents=contents,
        spec=spec,
        dialects=tuple(detect(tensors, read_depth(where, metadata))),
    )


def file_in(path: Path) -> Path:
    """The file with the tensors of a folder that peft or Diffusers wrote; any other path is a file's."""
    named = [path / name for name in FOLDERS if (path / name).is_file()]
    return named[0] if named else path


def sources(path: Path | str) -> list[Path]:
    """The files behind a path: their bytes decide what `open_any` finds there."""
    file = file_in(Path(path))
    settings = adapter_config.path_beside(file)
    return [file, settings] if settings else [file]


def open_role(path: Path | str, role: str, strict: bool = False) -> Opened:
    """The file given as content, style or lora; a LoRA made elsewhere may play any of them.

    Says what of it is left out; with `strict` that is refused. Raises UserError for one that cannot play this role.
    """
    opened = _open_whole(path, strict)
    if opened.role == role or opened.from_elsewhere:
        return opened
    if opened.kind == "fused":
        raise UserError(
            f"{opened.where}: not a concept file; give one that train-content or train-style wrote, "
            "or this one with --lora-file"
        )
    held = f"file of the method {opened.method}" if opened.kind == "method" else opened.kind
    raise UserError(
        f"{opened.where}: holds a {held}, and was given as the {role} file; use --{opened.role}-file"
    )


def open_beside(path: Path | str, strict: bool = False) -> Opened:
    """A concept or a LoRA of any kind, to go beside others. Says and raises as `open_role` does."""
    opened = _open_whole(path, strict)
    if opened.kind == "method":
        raise UserError(
            f"{opened.where}: a file of the method {opened.method}; --more-files takes concepts and LoRAs"
        )
    return opened


def _open_whole(path: Path | str, strict: bool) -> Opened:
    opened = open_any(path)
    for line in opened.contents.notes:
        if strict:
            raise UserError(f"{opened.where}: {line} (refused, since --strict is set)")
        note(f"{opened.where}: {line}")
    return opened


def refuse_method_files(files: Mapping[str, Opened]) -> None:
    """Raises UserError for tensors that name a method whose files are concept or LoRA files."""
    for opened in files.values():
        if opened.kind == "method":
            raise UserError(
                f"{opened.where}: names the method {opened.method}, which makes no such file; get the file again"
            )


def save_method_file(
    path: Path | str,
    method: str,
    tensors: Mapping[str, Tensor],
    denoiser: ModelMixin,
    metadata: Mapping[str, str],
    role: str = "lora",
) -> None:
    """Write tensors of a registered method, atomically, with its name and a digest. Raises UserError.

    denoiser: on another architecture than its one the file will be refused; role: with content_file, style_file or
    lora_file it goes.
    """
    facts = {f"b4m.{key}": value for key, value in metadata.items()}
    facts |= {METHOD: method, ROLE: role, BASE: denoiser_hash(denoiser)}
    write_tensors(path, tensors, {**facts, DIGEST: fingerprint(tensors, facts)})


def _verify(where: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    facts = {key: value for key, value in metadata.items() if key.startswith("b4m.") and key != DIGEST}
    if metadata.get(DIGEST) != fingerprint(tensors, facts):
        raise UserError(f"{where}: changed since it was written (its sha256 differs); get the file again")
