"""Between concept files and LoRA files: fuse them into one, take one apart, merge one into the whole UNet."""

import shutil
import uuid
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint import Concept, check_pair, load_concept, load_lora, save_concept, save_lora, spec_metadata
from .checkpoint import split_lora as split_halves
from .dialects import DIALECTS
from .errors import UserError
from .export_config import ExportConfig, SplitConfig
from .lora_file import DEPTH, Pairs, check_layers, header, read_spec
from .plp import HALVES, BasisSpec, basis, compose, start
from .sdxl import check_base, empty_unet
from .storage import PARTIAL, reason, shown, sync

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def export(config: ExportConfig) -> Path:
    """Write config.output; strengths are folded in. Raises UserError, and then writes nothing."""
    numbered = DIALECTS[config.dialect].numbered
    reads_base = not config.lora_file or config.merge or numbered
    unet = empty_unet(config.base_model) if reads_base else None
    layers, metadata = _from_lora(config) if config.lora_file else _from_concepts(config, unet)
    if unet is not None:
        check_layers(
            config.lora_file or config.content_file or config.style_file, layers, unet, config.base_model
        )
    if config.merge:
        return _merge(config, layers, metadata)
    if numbered:
        metadata = {**metadata, DEPTH: str(unet.config.layers_per_block)}
    save_lora(config.output, layers, metadata, DTYPES[config.dtype], config.dialect)
    return Path(config.output)


def _from_concepts(config: ExportConfig, unet: UNet2DConditionModel) -> tuple[Pairs, dict[str, str]]:
    files = {"content": config.content_file, "style": config.style_file}
    concepts = {kind: load_concept(file) for kind, file in files.items() if file}
    for kind, concept in concepts.items():
        if concept.kind != kind:
            raise UserError(f"{files[kind]}: holds a {concept.kind}, and was given as the {kind} file")
    if len(concepts) == 2:
        check_pair(concepts["content"], concepts["style"])
    first: Concept = next(iter(concepts.values()))
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
    """W_up (m, r) and W_down (r, n) of one layer; a half that is not given is as before training."""
    A, C = basis(spec, layer, *widths)
    B, D = start(spec, layer, *widths)
    return compose(A, halves.get("content", B), C, halves.get("style", D))


def _from_lora(config: ExportConfig) -> tuple[Pairs, dict[str, str]]:
    layers, metadata = load_lora(config.lora_file)
    if metadata.get("modelspec.title") == Path(config.lora_file).stem:
        del metadata["modelspec.title"]  # given by the file's name, and the new file has another
    strength = {"content": config.content_strength, "style": config.style_strength}
    if set(strength.values()) == {1.0}:
        return layers, metadata
    spec = read_spec(config.lora_file, metadata)
    if spec is None:
        raise UserError(
            f"{config.lora_file}: names no basis, so its content and style cannot be told apart; "
            "leave both strengths at 1"
        )
    halves = dict(zip(HALVES, split_halves(layers, spec), strict=True))
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


def _merge(config: ExportConfig, layers: Pairs, metadata: dict[str, str]) -> Path:
    """The base model's UNet with W + up @ down for W, added in float32 and rounded once, as a new folder."""
    folder = Path(config.output)
    if folder.exists():
        raise UserError(f"{shown(folder)}: exists already; give --output a new name")
    try:
        unet = UNet2DConditionModel.from_pretrained(config.base_model, subfolder="unet", use_safetensors=True)
    except Exception as error:  # any failure here is about the files, which are somebody else's
        raise UserError(
            f"base model {config.base_model}: its UNet cannot be loaded: {reason(error)}"
        ) from error
    with torch.no_grad():
        for name, (up, down) in layers.items():
            unet.get_submodule(name).weight += up @ down
    state = {name: tensor.to(DTYPES[config.dtype]).contiguous() for name, tensor in unet.state_dict().items()}
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{shown(folder)}: {name} does not fit into {config.dtype}; choose another --dtype"
            )
    facts = header(metadata, folder.name, "diffusers", kind="")
    _write_unet(folder, unet, state, {"format": "pt", **facts})
    return folder


def _write_unet(
    folder: Path, unet: UNet2DConditionModel, state: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """A folder that `UNet2DConditionModel.from_pretrained` reads; it appears whole or not at all."""
    partial = folder.parent / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        save_file(state, partial / "diffusion_pytorch_model.safetensors", metadata=metadata)
        unet.register_to_config(_name_or_path="")  # where it was read from is nobody's business
        unet.save_config(partial)
        for path in (*partial.iterdir(), partial):
            sync(path)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{shown(folder)}: cannot be written ({reason(error)}); free space, or choose another place"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def split(config: SplitConfig) -> list[Path]:
    """Write the two concept files of a fused LoRA file, B and D as they are in it, bit for bit; their paths.

    Raises UserError for a file that names no basis (then `config.like` may), or whose frozen parts are of another.
    """
    where = config.lora_file
    layers, metadata = load_lora(where)
    like = load_concept(config.like) if config.like else None
    spec = like.spec if like else read_spec(where, metadata)
    scope = like.layers if like else metadata.get("b4m.layers")
    unet_hash = like.unet_hash if like else metadata.get("b4m.unet_hash")
    if not (spec and scope and unet_hash):
        raise UserError(
            f"{where}: its header does not name the basis, the layers and the UNet it was made with; "
            "give a concept file of the same basis with --like"
        )
    try:
        halves = split_halves(layers, spec)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    paths = []
    for kind, tensors in zip(HALVES, halves, strict=True):
        paths.append(Path(config.output_dir) / f"{kind}.safetensors")
        save_concept(paths[-1], Concept(kind, tensors, spec, scope, unet_hash, _about(metadata, kind)))
    return paths


def _about(metadata: dict[str, str], kind: str) -> dict[str, str]:
    """What a fused file's header says of one of its halves: its prompt, its trigger word, ..."""
    start = f"b4m.{kind}_"
    own = {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}
    return {"base_model": metadata.get("b4m.base_model", ""), **own}
