"""Concept files (one trained half, B or D) and the one door to every other file of the method.

A concept file stores no A and no C: they follow from the basis in its metadata (Sec. 4.1). One sha256 covers
the tensors and that metadata, so that a file either reads back as it was written or is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .dialects import detect
from .errors import UserError
from .lora_file import load_lora, read_depth, read_spec, save_lora, spec_metadata, split_lora, triggers
from .plp import HALVES, BasisSpec
from .storage import check_floats, fingerprint, read_tensors, shown, write_atomic, write_tensors
from .training_state import load_state, save_state

__all__ = [
    "Concept", "check_pair", "describe", "load_concept", "load_lora", "load_state", "read_spec",
    "save_concept", "save_lora", "save_state", "spec_metadata", "split_lora", "write_atomic",
]  # fmt: skip

FORMAT = "1"  # of concept files; a reader refuses what it does not know
LAYERS = ("square", "all")
_OWN = ("format", "kind", "seed", "rank", "ratio", "basis", "scale", "layers", "unet_hash", "sha256")


@dataclass(frozen=True, eq=False)
class Concept:
    """One trained half. `tensors`: layer -> B (m-d_out, r) of a content, D (r, n-d_in) of a style."""

    kind: str  # "content" | "style"
    tensors: dict[str, Tensor]  # float32
    spec: BasisSpec
    layers: str  # "square" | "all"
    unet_hash: str
    metadata: dict[str, str] = field(default_factory=dict)  # prompt, trigger, base_model, steps, ...


def save_concept(path: Path | str, concept: Concept) -> None:
    """Write a concept file, atomically. Raises UserError for wrong shapes and values not finite."""
    if clash := sorted(set(concept.metadata) & set(_OWN)):
        raise ValueError(f"metadata may not use the names {clash}")
    _check(shown(path), concept)
    half = HALVES[concept.kind]
    tensors = {f"{layer}.{half}": tensor for layer, tensor in concept.tensors.items()}
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
    where = shown(path)
    tensors, header = read_tensors(path)
    metadata = {key: value for key, value in header.items() if key.startswith("b4m.")}
    if metadata.get("b4m.kind") not in HALVES or "b4m.sha256" not in metadata:
        raise UserError(f"{where}: not a concept file; give one that train-content or train-style wrote")
    if (version := metadata.get("b4m.format")) != FORMAT:
        raise UserError(f"{where}: concept format {version!r}, this b4m reads {FORMAT}; update b4m")
    found = fingerprint(tensors, {key: value for key, value in metadata.items() if key != "b4m.sha256"})
    if found != metadata["b4m.sha256"]:
        raise UserError(f"{where}: changed since it was written (its sha256 differs); get the file again")
    spec = read_spec(where, metadata)
    kind = metadata["b4m.kind"]
    ending = f".{HALVES[kind]}"
    if spec is None or not all(name.endswith(ending) for name in tensors):
        raise UserError(f"{where}: names no basis, or holds more than {HALVES[kind]}; train it again")
    concept = Concept(
        kind=kind,
        tensors={name.removesuffix(ending): tensor for name, tensor in tensors.items()},
        spec=spec,
        layers=metadata.get("b4m.layers", ""),
        unet_hash=metadata.get("b4m.unet_hash", ""),
        metadata={key[4:]: value for key, value in metadata.items() if key[4:] not in _OWN},
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


def describe(path: Path | str) -> dict[str, object]:
    """What a concept file, a LoRA file or a folder of training states is, verified: for `b4m info`."""
    path = Path(path)
    if path.is_dir():
        state = load_state(path)
        if state is None:
            raise UserError(f"{shown(path)}: no training state in this folder; give a file or a state folder")
        return {"file": shown(path), "type": "training state", "step": state[0], "tensors": len(state[1])}
    tensors, metadata = read_tensors(path)
    values = sum(tensor.numel() for tensor in tensors.values())
    facts = {"file": shown(path), "bytes": path.stat().st_size, "values": values}
    if metadata.get("b4m.kind") in HALVES:
        concept = load_concept(path)
        return {**facts, "type": f"{concept.kind} concept", "tensors": len(tensors), **_plain(metadata)}
    layers, metadata = load_lora(path)
    lora = {
        "dialect": ", ".join(detect(tensors, read_depth(shown(path), metadata))),
        "adapted layers": len(layers),
        "ranks": sorted({down.shape[0] for _, down in layers.values()}),
        "dtypes": sorted(
            {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.dim() > 1}
        ),
        "trigger words": ", ".join(map(_short, triggers(metadata))) or "not named",
    }
    return {**facts, "type": "LoRA", **lora, **_plain(metadata)}


def _plain(metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        _short(key.removeprefix("b4m.")): _short(metadata[key]) for key in sorted(metadata) if key != "format"
    }


def _short(text: str) -> str:
    """What a stranger wrote, fit for a terminal: one line, and not the thousands of tags of some headers."""
    line = text if text.isprintable() else ascii(text)
    return line if len(line) <= 200 else f"{line[:200]}... ({len(text)} characters)"


def _check(where: str, concept: Concept) -> None:
    """What holds for every concept, on its way to the disk and back."""
    if concept.kind not in HALVES or concept.layers not in LAYERS:
        raise UserError(
            f"{where}: kind {concept.kind!r} with layers {concept.layers!r}, "
            f"expected one of {tuple(HALVES)} with one of {LAYERS}"
        )
    if not concept.tensors or not concept.unet_hash:
        raise UserError(f"{where}: holds no tensors, or no hash of its UNet; train it again")
    check_floats(where, concept.tensors, (torch.float32,))
    side = 1 if concept.kind == "content" else 0
    for layer, tensor in concept.tensors.items():
        if tensor.shape[side] != concept.spec.rank:
            raise UserError(
                f"{where}: {layer} has shape {tuple(tensor.shape)}, expected rank {concept.spec.rank} "
                f"in dimension {side}; train it again"
            )
