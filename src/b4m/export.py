"""Concept files or a fused file -> an ordinary LoRA file, without loading the base model's weights."""

from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Concept, check_pair, load_concept, load_lora, save_lora, spec_metadata, split_lora
from .config import ExportConfig
from .errors import UserError
from .lora_file import read_spec
from .plp import HALVES, BasisSpec, basis, compose, frozen_sizes
from .sdxl import check_base, empty_unet

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def export(config: ExportConfig) -> Path:
    """Write config.output; strengths are folded in. Raises UserError, and then writes nothing."""
    make = _from_lora if config.lora_file else _from_concepts
    layers, metadata = make(config)
    save_lora(config.output, layers, metadata, DTYPES[config.dtype])
    return Path(config.output)


def _from_concepts(config: ExportConfig) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    files = {"content": config.content_file, "style": config.style_file}
    concepts = {kind: load_concept(file) for kind, file in files.items() if file}
    for kind, concept in concepts.items():
        if concept.kind != kind:
            raise UserError(f"{files[kind]}: holds a {concept.kind}, and was given as the {kind} file")
    if len(concepts) == 2:
        check_pair(concepts["content"], concepts["style"])
    first: Concept = next(iter(concepts.values()))
    unet = empty_unet(config.base_model)
    check_base(first.unet_hash, unet, next(file for file in files.values() if file), config.base_model)
    strength = {"content": config.content_strength, "style": config.style_strength}
    layers = {}
    for name in first.tensors:
        halves = {kind: strength[kind] * concept.tensors[name] for kind, concept in concepts.items()}
        layers[name] = _fuse(first.spec, name, tuple(unet.get_submodule(name).weight.shape), halves)
    metadata = {
        f"b4m.{kind}_{key}": value
        for kind, concept in concepts.items()
        for key, value in concept.metadata.items()
    }
    own = {**spec_metadata(first.spec), "b4m.layers": first.layers, "b4m.unet_hash": first.unet_hash}
    return layers, {**metadata, **own}


def _fuse(
    spec: BasisSpec, layer: str, widths: tuple[int, int], halves: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """W_up (m, r) and W_down (r, n) of one layer; a half that is not given is zero, as untrained."""
    m, n = widths
    d_out, d_in = frozen_sizes(m, n, spec.ratio)
    A, C = basis(spec, layer, m, n)
    B = halves.get("content", torch.zeros(m - d_out, spec.rank))
    D = halves.get("style", torch.zeros(spec.rank, n - d_in))
    return compose(A, B, C, D)


def _from_lora(config: ExportConfig) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    layers, metadata = load_lora(config.lora_file)
    strength = {"content": config.content_strength, "style": config.style_strength}
    if set(strength.values()) == {1.0}:
        return layers, metadata
    spec = read_spec(config.lora_file, metadata)
    if spec is None:
        raise UserError(
            f"{config.lora_file}: names no basis, so its content and style cannot be told apart; "
            "leave both strengths at 1"
        )
    halves = dict(zip(HALVES, split_lora(layers, spec), strict=True))
    scaled = {
        name: _fuse(
            spec,
            name,
            (up.shape[0], down.shape[1]),
            {kind: strength[kind] * halves[kind][name] for kind in HALVES},
        )
        for name, (up, down) in layers.items()
    }
    return scaled, metadata
