"""Between concept files and LoRA files: fuse them into one, take one apart, merge one into the whole UNet."""

import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..backbones.latent_diffusion import check_base
from ..backbones.protocol import Backbone
from ..backbones.published import empty_unet, published
from ..backbones.registry import FAMILIES, family_of
from ..core.errors import UserError, note
from ..core.storage import PARTIAL, reason, sync
from ..maths.plp import FACTORS, INPUTS, BasisSpec
from .concept import Concept, check_pair, load_concept, save_concept
from .contents import DEPTH, Contents, Layers
from .dialects import DIALECTS, OUTSIDE
from .fused import dialled, fuse, inputs_in, spec_metadata, split_lora
from .identity import made_for
from .lora import fit, header, mixed, save_lora, triggers
from .merging import change_of
from .opening import Opened, open_role
from .settings import ExportConfig, SplitConfig

# For which model a file is, in a header.
_MODEL = {"modelspec.architecture", "modelspec.prediction_type", "ss_base_model_version", "ss_v2"}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class _Part:
    """What one file, or a pair of concepts, changes of the base model, and how much of it counts."""

    where: str
    contents: Contents
    strength: float = 1.0

    def fitted(self, denoiser: ModelMixin, base_model: str) -> "_Part":
        """In the shapes of the denoiser's layers. Raises UserError where it misfits."""
        layers = fit(self.where, self.contents, denoiser, base_model)
        return replace(self, contents=replace(self.contents, layers=layers))

    def change(self, layer: str, weight: Tensor) -> Tensor:
        """dW of one of its layers."""
        return self.strength * change_of(self.where, self.contents, layer, weight)


def export(config: ExportConfig) -> Path:
    """Write config.output; strengths are folded in. Raises UserError, and then writes nothing."""
    given = {"content": config.content_file, "style": config.style_file, "lora": config.lora_file}
    files = {role: open_role(path, role, config.strict) for role, path in given.items() if path}
    _check_kinds(files.values(), config.merge)
    concepts = {role: opened for role, opened in files.items() if opened.concept}
    loras = {role: opened for role, opened in files.items() if not opened.concept}
    fused = any(opened.kind == "fused" for opened in files.values())
    numbered = DIALECTS[config.dialect].numbered
    if fused and not (config.merge or numbered):  # its header says already for which base model it is
        parts, metadata = _of_loras(config, loras)
        return _write(config, parts, metadata)
    family, denoiser, prediction_type = _base(config, bool(concepts))
    parts, metadata = _of_concepts(config, concepts, denoiser) if concepts else ([], {})
    if loras:
        more, said = _of_loras(config, loras)
        parts, metadata = parts + more, metadata | said
    parts = [part.fitted(denoiser, config.base_model) for part in parts]
    if concepts or config.merge or _is_told(config, parts, metadata):
        metadata = _unstamped(metadata) | family.stamp(denoiser, prediction_type)
    if config.merge:
        return _merge(config, family, parts, metadata)
    depth = {DEPTH: str(denoiser.config.layers_per_block)} if numbered else {}
    return _write(config, parts, metadata | depth)


def _is_told(config: ExportConfig, parts: Sequence[_Part], metadata: Mapping[str, str]) -> bool:
    """Whether the layers tell for which model they are; if several have them, only the file's own header can."""
    models = made_for({layer: size for part in parts for layer, size in part.contents.sizes.items()})
    if len(models) > 1 and not _MODEL & metadata.keys():
        note(f"{config.output}: {' and '.join(models)} have all of its layers; its header names no model")
    return len(models) < 2


def _unstamped(metadata: Mapping[str, str]) -> dict[str, str]:
    """Without what another tool has said of the model: `fitted` has told which it is."""
    return {key: value for key, value in metadata.items() if key not in _MODEL}


def _write(config: ExportConfig, parts: Sequence[_Part], metadata: dict[str, str]) -> Path:
    layers = _added(parts)
    save_lora(config.output, layers, metadata, DTYPES[config.dtype], config.dialect)
    if mixed(layers):
        note(f"{config.output}: ranks differ from layer to layer; Diffusers before 0.34 reads another scale")
    if DIALECTS[config.dialect].alpha and (lost := sorted(layers.keys() & OUTSIDE)):
        note(
            f"{config.output}: some releases of Diffusers leave out {', '.join(lost)}; for it, use --dialect diffusers"
        )
    return Path(config.output)


def _check_kinds(files: Iterable[Opened], merge: bool) -> None:
    """Raise UserError for what cannot be exported."""
    for opened in files:
        if opened.contents.others and not merge:
            raise UserError(
                f"{opened.where}: a {opened.contents.kind}, which cannot be written as a plain LoRA; use --merge"
            )
        if opened.kind == "method":
            raise UserError(
                f"{opened.where}: a file of the method {opened.method}, which is nothing to export"
            )


def _base(config: ExportConfig, concepts: bool) -> tuple[type[Backbone], ModelMixin, str]:
    """The base model's family, its denoiser without weights, and its prediction type."""
    known = None if concepts or config.merge else published(config.base_model)
    if known and known.family and known.prediction:  # nothing needs to be read of it
        return FAMILIES.get(known.family), empty_unet(known.title), known.prediction
    family = family_of(config.base_model)
    denoiser = family.empty_denoiser(config.base_model)
    return family, denoiser, family.read_prediction_type(config.base_model)


def as_layers(concepts: Mapping[str, Concept], strength: Mapping[str, float], denoiser: ModelMixin) -> Layers:
    """One concept, or a content and a style of one basis, as the LoRA that they are of this denoiser, by kind."""
    first = next(iter(concepts.values()))
    layers = {}
    for name in first.tensors:
        factors = {kind: strength[kind] * concept.tensors[name] for kind, concept in concepts.items()}
        widths = tuple(denoiser.get_submodule(name).weight.shape)
        layers[name] = fuse(first.spec, name, widths, factors, first.inputs.get(name))
    return layers


def _of_concepts(
    config: ExportConfig, files: Mapping[str, Opened], denoiser: ModelMixin
) -> tuple[list[_Part], dict[str, str]]:
    concepts = {role: opened.concept for role, opened in files.items() if opened.concept}
    where = next(iter(files.values())).where
    if len(concepts) == 2:
        check_pair(concepts["content"], concepts["style"])
    first = next(iter(concepts.values()))
    check_base(first.unet_hash, denoiser, where, config.base_model)
    strength = {"content": config.content_strength, "style": config.style_strength}
    layers = as_layers(concepts, strength, denoiser)
    metadata = {
        f"b4m.{kind}_{key}": value
        for kind, concept in concepts.items()
        for key, value in concept.metadata.items()
    }
    if len(concepts) < 2:  # a LoRA like any other, which may go beside one
        return [_Part(where, Contents(layers))], metadata
    own = {**spec_metadata(first.spec), "b4m.layers": first.layers, "b4m.unet_hash": first.unet_hash}
    return [_Part(where, Contents(layers))], {**metadata, **own}


def _of_loras(config: ExportConfig, files: Mapping[str, Opened]) -> tuple[list[_Part], dict[str, str]]:
    """One LoRA file, or two that are added, whose headers would each be true of one half only."""
    strength = {"content": config.content_strength, "style": config.style_strength}
    if "lora" not in files:
        words = {role: ", ".join(triggers(opened.metadata)) for role, opened in files.items()}
        named = {f"b4m.{role}_trigger": word for role, word in words.items() if word}
        return [_Part(opened.where, opened.contents, strength[role]) for role, opened in files.items()], named
    opened = files["lora"]
    metadata = dict(opened.metadata)
    if metadata.get("modelspec.title") == Path(opened.where).stem:
        del metadata["modelspec.title"]  # given by the file's name, and the new file has another
    if opened.spec is not None and set(strength.values()) != {1.0}:
        return [_Part(opened.where, Contents(dialled(opened.layers, opened.spec, strength)))], metadata
    if len(set(strength.values())) > 1:
        raise UserError(
            f"{opened.where}: names no basis, so its content and style cannot be told apart; "
            "give both strengths one value"
        )
    return [_Part(opened.where, opened.contents, strength["content"])], metadata


def _added(parts: Sequence[_Part]) -> Layers:
    """The parts as one LoRA: side by side, their projections make the sum of their changes."""
    layers: Layers = {}
    for part in parts:
        for layer, (up, down) in part.contents.layers.items():
            up = up if part.strength == 1 else up * part.strength
            others = [layers[layer]] if layer in layers else []
            ups, downs = zip(*others, (up, down), strict=True)
            layers[layer] = (torch.cat(ups, dim=1), torch.cat(downs))
    return layers


def _merge(
    config: ExportConfig, family: type[Backbone], parts: Sequence[_Part], metadata: dict[str, str]
) -> Path:
    """The base model's UNet with W + dW for W, added in float32 and rounded once, as a new folder."""
    folder = Path(config.output)
    if folder.exists():
        raise UserError(f"{folder}: exists already; give --output a new name")
    denoiser = family.load_denoiser(config.base_model)
    with torch.no_grad():
        for layer in {layer: None for part in parts for layer in part.contents.sizes}:
            weight = denoiser.get_submodule(layer).weight
            weight += sum(part.change(layer, weight) for part in parts if layer in part.contents.sizes)
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
        what = f"file of the method {opened.method}" if opened.kind == "method" else opened.kind
        raise UserError(f"{where}: a {what}, and no LoRA that was fused from a content and a style")
    like = load_concept(config.like) if config.like else None
    spec = _spec_like(layers, like.spec) if like else opened.spec
    scope = like.layers if like else metadata.get("b4m.layers")
    unet_hash = like.unet_hash if like else metadata.get("b4m.unet_hash")
    if not (spec and scope and unet_hash):
        raise UserError(
            f"{where}: its header does not name the basis, the layers and the UNet it was made with; "
            "give a concept file of the same basis with --like"
        )
    try:
        factors, inputs = split_lora(layers, spec), inputs_in(layers, spec)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    paths = []
    for kind, tensors in zip(FACTORS, factors, strict=True):
        of_content = kind == "content"
        its_spec = spec if of_content else replace(spec, inputs="cosine")
        about, its_inputs = _about(metadata, kind), inputs if of_content else {}
        paths.append(Path(config.output_dir) / f"{kind}.safetensors")
        save_concept(paths[-1], Concept(kind, tensors, its_spec, scope, unet_hash, about, its_inputs))
    return paths


def _spec_like(layers: Layers, spec: BasisSpec) -> BasisSpec:
    """The basis of another concept, whose inputs need not be those of this file's content (a style's never are)."""
    for inputs in INPUTS:
        try:
            split_lora(layers, found := replace(spec, inputs=inputs))
        except UserError:
            continue
        return found
    return spec


def _about(metadata: Mapping[str, str], kind: str) -> dict[str, str]:
    """What a fused file's header says of one of its concepts: its prompt, its trigger word, ..."""
    start = f"b4m.{kind}_"
    own = {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}
    return {"base_model": metadata.get("b4m.base_model", ""), **own}
