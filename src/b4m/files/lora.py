"""LoRA files: written in the dialect that a tool expects, read in every one; what their headers say.

A layer is its module's full path in the UNet; its LoRA is a pair (up (m, r), down (r, n)), dW = up @ down.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.storage import FLOATS, check_floats, own, read_tensors, reason, write_tensors
from ..maths.plp import BasisSpec, basis, frozen_sizes, split
from .dialects import DIALECTS, SDXL_DEPTH, parse

Layers = dict[str, tuple[Tensor, Tensor]]

DEPTH = "b4m.layers_per_block"  # in files with original block names, where it is not SDXL's
# True of the file that was read and no longer of the one being written.
_STALE = (
    "format",
    "lora_adapter_metadata",
    "modelspec.hash_sha256",
    "ss_network_alpha",
    "sshs_legacy_hash",
    "sshs_model_hash",
)


def spec_metadata(spec: BasisSpec) -> dict[str, str]:
    """The basis as metadata, written so that it reads back bit for bit. ("b4m.kind" is content or style.)"""
    return {
        "b4m.seed": str(spec.seed),
        "b4m.rank": str(spec.rank),
        "b4m.ratio": repr(float(spec.ratio)),
        "b4m.basis": spec.kind,
        "b4m.scale": repr(float(spec.scale)),
    }


def read_spec(where: str, metadata: Mapping[str, str]) -> BasisSpec | None:
    """The basis in a file's metadata; None where it names none. UserError, led by `where`, if damaged."""
    found: list[Any] = [metadata.get(f"b4m.{name}") for name in ("seed", "rank", "ratio", "basis", "scale")]
    if all(value is None for value in found):
        return None
    try:
        seed, rank, ratio, kind, scale = found
        return BasisSpec(int(seed), int(rank), float(ratio), kind, float(scale))
    except (TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{where}: its basis (seed, rank, ratio, basis, scale: {found}) cannot be read; get the file again"
        ) from error


def triggers(metadata: Mapping[str, str]) -> list[str]:
    """The words that call a file's content and style, as its header names them."""
    ours = [metadata.get(f"b4m.{name}") for name in ("trigger", "content_trigger", "style_trigger")]
    named = [word for word in ours if word]
    phrase = metadata.get("modelspec.trigger_phrase")
    return named or ([phrase] if phrase else [])


def header(
    metadata: Mapping[str, str], title: str, implementation: str, kind: str = "/lora"
) -> dict[str, str]:
    """`metadata` as it goes into a file, with what other tools show of it unless it says so itself.

    modelspec.*: Stability's model metadata specification. ss_*: kohya's names, by which A1111 tells SDXL from
    SD 1 and lists trigger words; of a file that names no base model they say SDXL. kind: "/lora", or "" for a whole
    model.
    """
    architecture = metadata.get("modelspec.architecture", "stable-diffusion-xl-v1-base")
    words = triggers(metadata)
    shown_words = {
        "modelspec.trigger_phrase": ", ".join(words),
        "ss_tag_frequency": json.dumps({f"1_{word}": {word: 1} for word in words}),
    }
    return {
        "modelspec.title": title,
        "ss_base_model_version": "sdxl_base_v1-0",
        **(shown_words if words else {}),
        **{key: value for key, value in metadata.items() if key not in _STALE},
        "modelspec.architecture": architecture.removesuffix("/lora") + kind,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": implementation,
    }


def save_lora(
    path: Path | str,
    layers: Layers,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
    dialect: str = "diffusers",
) -> None:
    """Write an ordinary rank-r LoRA in one of DIALECTS, atomically.

    `layers`: layer -> (up (m, r), down (r, n)). `metadata`: header entries, written as given over the
    defaults of `header`; with `spec_metadata` among them the file can be split again. Raises UserError for no
    layer, for shapes that do not fit, for values that are not finite, also where `dtype` cannot hold them, and
    for layers that the dialect has no name for.
    """
    path = Path(path)
    if not layers:
        raise UserError(f"{path}: no layer to write; adapt at least one")
    spelling = DIALECTS[dialect]
    depth = read_depth(str(path), metadata)
    names = {layer: spelling.write(layer, depth) for layer in layers}
    if nameless := sorted(layer for layer, name in names.items() if name is None):
        raise UserError(
            f"{path}: {len(nameless)} of {len(layers)} layers have no name in the dialect {dialect} "
            f"({', '.join(nameless[:3])}); choose another --dialect"
        )
    tensors = {}
    for layer, (up, down) in layers.items():
        tensors[f"{names[layer]}{spelling.down}"] = down.to(dtype)
        tensors[f"{names[layer]}{spelling.up}"] = up.to(dtype)
    check_floats(str(path), tensors)
    _check_pairs(str(path), layers)
    ranks = {layer: float(len(down)) for layer, (_, down) in layers.items()}
    # Equal to the rank, since the scale is in the factors. Where ranks differ none is written, which means the same:
    # Diffusers gives every layer the commonest of several alphas.
    if spelling.alpha and len(set(ranks.values())) == 1:
        tensors |= {f"{names[layer]}.alpha": torch.tensor(rank) for layer, rank in ranks.items()}
    write_tensors(path, tensors, header(metadata, path.stem, spelling.implementation))


def load_lora(path: Path | str) -> tuple[Layers, dict[str, str]]:
    """Read a LoRA of the UNet: layer -> (up (m, r), down (r, n)) float32, and the file's metadata.

    Keys: those of any of DIALECTS. A scale of alpha / rank, given per layer or in Diffusers' adapter metadata,
    is folded into `up`. Raises UserError for anything else, listing the first keys that are not understood.
    """
    tensors, metadata = read_tensors(path)
    return read_lora(str(path), tensors, metadata), metadata


def read_lora(where: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Layers:
    """The LoRA in a file's tensors and header. Raises UserError, led by `where`, as `load_lora` does."""
    depth = read_depth(where, metadata)
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        parsed = parse(key, depth)
        if parsed is None or parsed[2] != "alpha" and tensor.dim() > 2:  # more than two: a convolution
            unknown.append(key)
            continue
        _, layer, half = parsed
        if half in parts.setdefault(layer, {}):
            raise UserError(f"{where}: two tensors for the {half} half of {layer}; keep one of them")
        parts[layer][half] = tensor
    if unknown:
        raise UserError(
            f"{where}: {len(unknown)} of {len(tensors)} keys are no LoRA of a linear layer of a UNet "
            f"({', '.join(sorted(unknown)[:3])}); LoRAs of text encoders or convolutions, DoRA, LoHa and "
            "LoKr are not supported: give a plain LoRA of the UNet"
        )
    if not parts:
        raise UserError(f"{where}: holds no LoRA weights; give a LoRA file")
    config = _adapter_config(where, metadata)
    return {layer: _fold(where, layer, parts[layer], config) for layer in sorted(parts)}


def read_depth(where: str, metadata: Mapping[str, str]) -> int:
    """layers_per_block of the UNet whose blocks a file numbers: SDXL's unless its header names another."""
    value = metadata.get(DEPTH, str(SDXL_DEPTH))
    if not (value.isascii() and value.isdigit() and 1 <= len(value) <= 3 and int(value)):
        raise UserError(
            f"{where}: layers_per_block {value[:20]} is not one whole number, so blocks cannot be numbered; "
            "use the dialect kohya"
        )
    return int(value)


def check_layers(where: str, layers: Layers, denoiser: ModelMixin, base_model: str) -> None:
    """Raise UserError, led by `where`, unless every pair fits a linear layer of `base_model`'s denoiser."""
    widths = {
        name: module.weight.shape
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear)
    }
    wrong = [
        layer for layer, (up, down) in layers.items() if widths.get(layer) != (up.shape[0], down.shape[1])
    ]
    if wrong:
        raise UserError(
            f"{where}: {len(wrong)} of {len(layers)} layers do not fit the UNet of {base_model} "
            f"({', '.join(sorted(wrong)[:3])}); give --base-model as it was in training"
        )


def split_lora(layers: Layers, spec: BasisSpec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Content (layer -> B) and style (layer -> D) of a fused LoRA: its learnable blocks, bit for bit.

    Raises UserError where the frozen blocks are not those of `spec`: another basis, or a file from elsewhere.
    """
    content, style = {}, {}
    for layer, (up, down) in layers.items():
        m, n = up.shape[0], down.shape[1]
        wanted = basis(spec, layer, m, n)
        found_a, content[layer], found_c, style[layer] = split(up, down, *frozen_sizes(m, n, spec.ratio))
        for name, found, frozen in (("A", found_a, wanted[0]), ("C", found_c, wanted[1])):
            if not _is_rounded(found, frozen):
                raise UserError(
                    f"{layer}: its frozen block {name} is not the one of {spec}; "
                    "only a LoRA that was fused from this basis can be split into content and style"
                )
    return _owned(content), _owned(style)


def _owned(half: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, so that the halves do not keep the whole file in memory."""
    return {layer: own(tensor) for layer, tensor in half.items()}


def _fold(where: str, layer: str, parts: dict[str, Tensor], config: dict) -> tuple[Tensor, Tensor]:
    """(up, down) in float32 of one layer's tensors, the scale alpha / rank taken into `up`."""
    if missing := [half for half in ("up", "down") if half not in parts]:
        raise UserError(f"{where}: {layer} has no {missing[0]} half; the file is incomplete, get it again")
    matrices = {f"{layer} {half}": parts[half] for half in ("up", "down")}
    check_floats(where, matrices, (*FLOATS, torch.float64))
    up, down = parts["up"].float(), parts["down"].float()
    _check_pairs(where, {layer: (up, down)})
    rank = down.shape[0]
    alpha = float(parts["alpha"]) if "alpha" in parts and parts["alpha"].numel() == 1 else None
    if "alpha" in parts and (alpha is None or not math.isfinite(alpha)):
        raise UserError(f"{where}: alpha of {layer} is not one finite number; get the file again")
    scale = _config_scale(layer, rank, config) if alpha is None else alpha / rank
    return (up if scale == 1.0 else up * scale), down


def _check_pairs(where: str, layers: Layers) -> None:
    """Every pair must multiply, with rank 1 or more."""
    for layer, (up, down) in layers.items():
        if up.dim() != 2 or down.dim() != 2 or up.shape[1] != down.shape[0] or not down.shape[0]:
            raise UserError(
                f"{where}: {layer} has up {tuple(up.shape)} and down {tuple(down.shape)}, "
                "expected (m, r) and (r, n); the file is no LoRA of this kind"
            )


def _adapter_config(where: str, metadata: Mapping[str, str]) -> dict:
    """The UNet's part of the adapter settings that newer Diffusers writes into the header."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        config = {key.removeprefix("unet."): value for key, value in config.items()}
        if config.get("use_dora"):
            raise UserError(f"{where}: a DoRA, not a plain LoRA; export it as a plain LoRA")
        patterns = config.get("alpha_pattern") or {}
        return {
            "alpha": None if config.get("lora_alpha") is None else float(config["lora_alpha"]),
            "patterns": {str(layer): float(alpha) for layer, alpha in patterns.items()},
            "root": bool(config.get("use_rslora")),
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{where}: its lora_adapter_metadata cannot be read ({reason(error)}); get the file again"
        ) from error


def _config_scale(layer: str, rank: int, config: dict) -> float:
    named = [alpha for name, alpha in config["patterns"].items() if f".{layer}".endswith(f".{name}")]
    alpha = named[0] if named else config["alpha"]
    if alpha is None:
        return 1.0  # Diffusers' own rule: without an alpha, alpha is the rank
    return alpha / (math.sqrt(rank) if config["root"] else rank)


def _is_rounded(found: Tensor, frozen: Tensor) -> bool:
    """Whether a float32 block from a file is `frozen` in one of the dtypes a LoRA may be stored in."""
    return any(torch.equal(found, frozen.to(dtype).float()) for dtype in FLOATS)
