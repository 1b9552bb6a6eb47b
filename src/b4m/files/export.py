"""Between concept files and LoRA files: fuse them into one, take one apart, merge one into the whole UNet."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..backbones.latent_diffusion import check_base
from ..backbones.protocol import Backbone
from ..backbones.registry import family_of
from ..core.errors import UserError
from ..core.storage import PARTIAL, reason, sync
from ..maths.plp import FACTORS, BasisSpec, basis, compose, start
from .concept import Concept, check_pair, load_concept, save_concept
from .dialects import DIALECTS
from .lora import DEPTH, Layers, check_layers, header, save_lora, spec_metadata
from .lora import split_lora as split_factors
from .opening import Opened, open_role
from .settings import ExportConfig, SplitConfig

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def export(config: ExportConfig) -> Path:
    """Write config.output; strengths are folded in. Raises UserError, and then writes nothing."""
    given = {"content": config.content_file, "style": config.style_file, "lora": config.lora_file}
    files = {role: open_role(path, role) for role, path in given.items() if path}
    numbered = DIALECTS[config.dialect].numbered
    reads_base = "lora" not in files or config.merge or numbered
    family: Any = family_of(config.base_model) if reads_base else None
    denoiser: Any = family.empty_denoiser(config.base_model) if family else None
    if "lora" in files:
        layers, metadata = _of_lora(config, files["lora"])
    else:
        layers, metadata = _of_concepts(config, files, denoiser)
    if denoiser is not None:
        check_layers(next(iter(files.values())).where, layers, denoiser, config.base_model)
        metadata = {**family.stamp(denoiser, family.read_prediction_type(config.base_model)), **metadata}
    if config.merge:
        return _merge(config, family, layers, metadata)
    if numbered:
        metadata = {**metadata, DEPTH: str(denoiser.config.layers_per_block)}
    save_lora(config.output, layers, metadata, DTYPES[config.dtype], config.dialect)
    return Path(config.output)


def _of_concepts(
    config: ExportConfig, files: Mapping[str, Opened], denoiser: ModelMixin
) -> tuple[Layers, dict[str, str]]:
    concepts = {}
    for role, opened in files.items():
        if opened.concept is None:
            raise UserError(
                f"{opened.where}: a file of the method {opened.method}, which is no concept to export"
            )
        concepts[role] = opened.concept
    if len(concepts) == 2:
        check_pair(concepts["content"], concepts["style"])
    first = next(iter(concepts.values()))
    check_base(first.unet_hash, denoiser, next(iter(files.values())).where, config.base_model)
    strength = {"content": config.content_strength, "style": config.style_strength}
    layers = {}
    for name in first.tensors:
        factors = {kind: strength[kind] * concept.tensors[name] for kind, concept in concepts.items()}
        layers[name] = _fuse(first.spec, name, tuple(denoiser.get_submodule(name).weight.shape), factors)
    metadata = {
        f"b4m.{kind}_{key}": value
        for kind, concept in concepts.items()
        for key, value in concept.metadata.items()
    }
    own = {**spec_metadata(first.spec), "b4m.layers": first.layers, "b4m.unet_hash": first.unet_hash}
    return layers, {**metadata, **own}


def _fuse(
    spec: BasisSpec, layer: str, widths: tuple[int, int], factors: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """W_up (m, r) and W_down (r, n) of one layer; a half that is not given is as before training."""
    A, C = basis(spec, layer, *widths)
    B, D = start(spec, layer, *widths)
    return compose(A, factors.get("content", B), C, factors.get("style", D))


def _of_lora(config: ExportConfig, opened: Opened) -> tuple[Layers, dict[str, str]]:
    layers, metadata, spec = opened.layers, dict(opened.metadata), opened.spec
    if not layers:
        raise UserError(f"{opened.where}: a file of the method {opened.method}, which is no LoRA to export")
    if metadata.get("modelspec.title") == Path(opened.where).stem:
        del metadata["modelspec.title"]  # given by the file's name, and the new file has another
    strength = {"content": config.content_strength, "style": config.style_strength}
    if set(strength.values()) == {1.0}:
        return layers, metadata
    if spec is None:
        raise UserError(
            f"{opened.where}: names no basis, so its content and style cannot be told apart; "
            "leave both strengths at 1"
        )
    factors = dict(zip(FACTORS, split_factors(layers, spec), strict=True))
    scaled = {
        name: _fuse(
            spec,
            name,
            (up.shape[0], down.shape[1]),
            {kind: strength[kind] * factors[kind][name] for kind in FACTORS},
        )
        for name, (up, down) in layers.items()
    }
    return scaled, metadata


def _merge(config: ExportConfig, family: type[Backbone], layers: Layers, metadata: dict[str, str]) -> Path:
    """The base model's UNet with W + up @ down for W, added in float32 and rounded once, as a new folder."""
    folder = Path(config.output)
    if folder.exists():
        raise UserError(f"{folder}: exists already; give --output a new name")
    denoiser = family.load_denoiser(config.base_model)
    with torch.no_grad():
        for name, (up, down) in layers.items():
            denoiser.get_submodule(name).weight += up @ down
    state = {
        name: tensor.to(DTYPES[config.dtype]).contiguous() for name, tensor in denoiser.state_dict().items()
    }
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{folder}: {name} does not fit into {config.dtype}; choose another --dtype")
    facts = header(metadata, folder.name, "diffusers", kind="")
    _write_unet(folder, denoiser, state, {"format": "pt", **facts})
    return folder


def _write_unet(
    folder: Path, denoiser: ModelMixin, state: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """A folder that the model's own `from_pretrained` reads; it appears whole or not at all."""
    partial = folder.parent / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        save_file(state, partial / "diffusion_pytorch_model.safetensors", metadata=metadata)
        denoiser.register_to_config(_name_or_path="")  # where it was read from is nobody's business
        denoiser.save_config(partial)
        for path in (*partial.iterdir(), partial):
            sync(path)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}: cannot be written ({reason(error)}); free space, or choose another place"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def split(config: SplitConfig) -> list[Path]:
    """Write the two concept files of a fused LoRA file, B and D as they are in it, bit for bit; their paths.

    Raises UserError for a file that names no basis (then `config.like` may), or whose frozen parts are of another.
    """
    opened = open_role(config.lora_file, "lora")
    where, layers, metadata = opened.where, opened.layers, opened.metadata
    if not layers:
        raise UserError(f"{where}: a file of the method {opened.method}, and no LoRA")
    like = load_concept(config.like) if config.like else None
    spec = like.spec if like else opened.spec
    scope = like.layers if like else metadata.get("b4m.layers")
    unet_hash = like.unet_hash if like else metadata.get("b4m.unet_hash")
    if not (spec and scope and unet_hash):
        raise UserError(
            f"{where}: its header does not name the basis, the layers and the UNet it was made with; "
            "give a concept file of the same basis with --like"
        )
    try:
        factors = split_factors(layers, spec)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    paths = []
    for kind, tensors in zip(FACTORS, factors, strict=True):
        paths.append(Path(config.output_dir) / f"{kind}.safetensors")
        save_concept(paths[-1], Concept(kind, tensors, spec, scope, unet_hash, _about(metadata, kind)))
    return paths


def _about(metadata: Mapping[str, str], kind: str) -> dict[str, str]:
    """What a fused file's header says of one of its concepts: its prompt, its trigger word, ..."""
    start = f"b4m.{kind}_"
    own = {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}
    return {"base_model": metadata.get("b4m.base_model", ""), **own}
