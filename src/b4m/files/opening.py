"""The one door to every file that somebody has trained: what it is, verified, whatever it is called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusers import ModelMixin
from torch import Tensor

from ..backbones.latent_diffusion import denoiser_hash
from ..core.errors import UserError
from ..core.storage import fingerprint, read_tensors, write_tensors
from ..maths.plp import FACTORS, BasisSpec
from .concept import Concept, read_concept
from .dialects import detect
from .lora import Layers, read_depth, read_lora, read_spec

METHOD, ROLE, BASE, DIGEST = "b4m.method", "b4m.role", "b4m.unet_hash", "b4m.sha256"


@dataclass(frozen=True, eq=False)
class Opened:
    """A file's kind and what it holds.

    kind: "content" or "style" (a concept file), "fused" (a LoRA that names a basis of ours), "LoRA" (any other),
    "method" (tensors of a registered method). What does not apply is empty.
    """

    where: str  # its path, for an error line
    kind: str
    method: str  # the registered method that puts it on a base model
    tensors: Mapping[str, Tensor]  # as they are in the file
    metadata: Mapping[str, str]
    concept: Concept | None = None
    layers: Layers = field(default_factory=dict)  # of a LoRA
    spec: BasisSpec | None = None
    dialects: tuple[str, ...] = ()  # of a LoRA

    @property
    def role(self) -> str:
        """With which option it goes: "content", "style" or "lora"."""
        if self.kind == "method":
            return self.metadata.get(ROLE, "lora")
        return self.kind if self.kind in FACTORS else "lora"


def open_any(path: Path | str) -> Opened:
    """Read and verify a file. Raises UserError for one that is none of these, or not whole and unchanged."""
    where = str(path)
    tensors, metadata = read_tensors(path)
    if metadata.get("b4m.kind") in FACTORS:
        concept = read_concept(where, tensors, metadata)
        return Opened(where, concept.kind, "b4m", tensors, metadata, concept=concept, spec=concept.spec)
    if METHOD in metadata:
        _verify(where, tensors, metadata)
        return Opened(where, "method", metadata[METHOD], tensors, metadata)
    layers = read_lora(where, tensors, metadata)
    spec = read_spec(where, metadata)
    dialects = tuple(detect(tensors, read_depth(where, metadata)))
    ours = spec is not None and "b4m.layers" in metadata
    kind = "LoRA" if spec is None else "fused"
    return Opened(
        where, kind, "b4m" if ours else "lora", tensors, metadata, layers=layers, spec=spec, dialects=dialects
    )


def open_role(path: Path | str, role: str) -> Opened:
    """The file given as content, style or lora. Raises UserError for one that cannot play this role."""
    opened = open_any(path)
    if opened.role == role:
        return opened
    if opened.kind in ("fused", "LoRA"):
        raise UserError(
            f"{opened.where}: not a concept file; give one that train-content or train-style wrote"
        )
    held = f"file of the method {opened.method}" if opened.kind == "method" else opened.kind
    raise UserError(
        f"{opened.where}: holds a {held}, and was given as the {role} file; use --{opened.role}-file"
    )


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
