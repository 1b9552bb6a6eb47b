"""Concept files: one trained half, B or D.

A concept file stores no A and no C: they follow from the basis in its metadata (Sec. 4.1). Only a content whose inputs
are principal carries its C. One sha256 covers the tensors and that metadata, so that a file either reads back as it was
written or is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import check_floats, fingerprint, read_tensors, write_tensors
from ..maths.plp import FACTORS, BasisSpec
from .fused import read_spec, spec_metadata

FORMAT = "1"  # of concept files; a reader refuses what it does not know
LAYERS = ("square", "all")
INPUTS_ENDING = ".C"
_OWN = (
    "format",
    "kind",
    "seed",
    "rank",
    "ratio",
    "basis",
    "scale",
    "inputs",
    "layers",
    "unet_hash",
    "sha256",
)


@dataclass(frozen=True, eq=False)
class Concept:
    """One trained half. `tensors`: layer -> B (m-d_out, r) of a content, D (r, n-d_in) of a style."""

    kind: str  # "content" | "style"
    tensors: dict[str, Tensor]  # float32
    spec: BasisSpec
    layers: str  # "square" | "all"
    unet_hash: str
    metadata: dict[str, str] = field(default_factory=dict)  # prompt, trigger, base_model, steps, ...
    # Layer -> (r//2, d_in), the lower half of a content's C where the spec's inputs are principal; else empty.
    inputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def everything(self) -> dict[str, Tensor]:
        """All tensors that a result depends on, those of `inputs` under names of their own."""
        return {**self.tensors, **{f"{layer}{INPUTS_ENDING}": rows for layer, rows in self.inputs.items()}}


def save_concept(path: Path | str, concept: Concept) -> None:
    """Write a concept file, atomically. Raises UserError for wrong shapes and values not finite."""
    if clash := sorted(set(concept.metadata) & set(_OWN)):
        raise ValueError(f"metadata may not use the names {clash}")
    _check(str(path), concept)
    half = FACTORS[concept.kind]
    tensors = {f"{layer}.{half}": tensor for layer, tensor in concept.tensors.items()}
    tensors |= {f"{layer}{INPUTS_ENDING}": rows for layer, rows in concept.inputs.items()}
    metadata = {
        **{f"b4m.{key}": value for key, value in concept.metadata.items()},
        **spec_metadata(concept.spec),
        "b4m.format": FORMAT,
        "b4m.kind": concept.kind,
        "b4m.layers": concept.layers,
        "b4m.unet_hash": concept.unet_hash,
    }
    write_tensors(path, tensors, {**metadata, "b4m.sha256": fingerprint(tensors, metadata)})


def load_concept(path: Path | str) -> Concept:
    """Read and verify a concept file. Raises UserError for anything that is not one, whole and unchanged."""
    return read_concept(str(path), *read_tensors(path))


def read_concept(where: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Concept:
    """The concept in a file's tensors and header. Raises UserError, led by `where`, as `load_concept` does."""
    metadata = {key: value for key, value in header.items() if key.startswith("b4m.")}
    if metadata.get("b4m.kind") not in FACTORS or "b4m.sha256" not in metadata:
        raise UserError(
            f"{where}: not a concept file; give one that train-content or train-style wrote, since only their frozen "
            "parts fit each other (LoRAs made elsewhere go together in b4m generate and export, which add them)"
        )
    if (version := metadata.get("b4m.format")) != FORMAT:
        raise UserError(f"{where}: concept format {version!r}, this b4m reads {FORMAT}; update b4m")
    found = fingerprint(tensors, {key: value for key, value in metadata.items() if key != "b4m.sha256"})
    if found != metadata["b4m.sha256"]:
        raise UserError(f"{where}: changed since it was written (its sha256 differs); get the file again")
    spec = read_spec(where, metadata)
    kind = metadata["b4m.kind"]
    ending = f".{FACTORS[kind]}"
    inputs = {name: rows for name, rows in tensors.items() if name.endswith(INPUTS_ENDING)}
    if spec is None or not all(name.endswith(ending) for name in tensors.keys() - inputs.keys()):
        raise UserError(f"{where}: names no basis, or holds more than {FACTORS[kind]}; train it again")
    concept = Concept(
        kind=kind,
        tensors={name.removesuffix(ending): tensor for name, tensor in tensors.items() if name not in inputs},
        spec=spec,
        layers=metadata.get("b4m.layers", ""),
        unet_hash=metadata.get("b4m.unet_hash", ""),
        metadata={key[4:]: value for key, value in metadata.items() if key[4:] not in _OWN},
        inputs={name.removesuffix(INPUTS_ENDING): rows for name, rows in inputs.items()},
    )
    _check(where, concept)
    return concept


def check_pair(content: Concept, style: Concept) -> None:
    """Raise UserError for a content and a style of another basis, other layers or another UNet (Sec. 4.1)."""
    for role, concept in (("content", content), ("style", style)):
        if concept.kind != role:
            raise UserError(f"a {concept.kind} was given as the {role}; give a {role} file there")
    rows = [
        ("seed", content.spec.seed, style.spec.seed),
        ("rank", content.spec.rank, style.spec.rank),
        ("ratio", content.spec.ratio, style.spec.ratio),
        ("basis kind", content.spec.kind, style.spec.kind),
        ("basis scale", content.spec.scale, style.spec.scale),
        ("layers", content.layers, style.layers),
        ("UNet hash", content.unet_hash, style.unet_hash),
    ]
    if differing := [f"{name} {ours} against {theirs}" for name, ours, theirs in rows if ours != theirs]:
        raise UserError(
            f"the content and the style do not compose: {'; '.join(differing)} (content against style); "
            "train both on one base model with the same settings"
        )
    if lone := sorted(content.tensors.keys() ^ style.tensors.keys()):
        owner = "content" if lone[0] in content.tensors else "style"
        raise UserError(
            f"the content and the style do not compose: only the {owner} has {lone[0]}; train both again"
        )


def _check(where: str, concept: Concept) -> None:
    """What holds for every concept, on its way to the disk and back."""
    if concept.kind not in FACTORS or concept.layers not in LAYERS:
        raise UserError(
            f"{where}: kind {concept.kind!r} with layers {concept.layers!r}, "
            f"expected one of {tuple(FACTORS)} with one of {LAYERS}"
        )
    if not concept.tensors or not concept.unet_hash:
        raise UserError(f"{where}: holds no tensors, or no hash of its UNet; train it again")
    check_floats(where, concept.everything, (torch.float32,))
    reads = concept.kind == "content" and concept.spec.inputs == "principal"
    wanted = concept.tensors.keys() if reads else set()
    half = concept.spec.rank // 2
    if concept.inputs.keys() != wanted or any(len(rows) != half for rows in concept.inputs.values()):
        raise UserError(
            f"{where}: a {concept.kind} of {concept.spec.inputs} inputs, and its {len(concept.inputs)} blocks C are "
            f"not {len(wanted)} of {half} rows; train it again"
        )
    side = 1 if concept.kind == "content" else 0
    for layer, tensor in concept.tensors.items():
        if tensor.shape[side] != concept.spec.rank:
            raise UserError(
                f"{where}: {layer} has shape {tuple(tensor.shape)}, expected rank {concept.spec.rank} "
                f"in dimension {side}; train it again"
            )
