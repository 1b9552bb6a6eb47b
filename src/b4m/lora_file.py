"""LoRA files: written as every other LoRA reader expects them, read in every Diffusers spelling of the keys.

A layer is its module's full path in the UNet; its LoRA is a pair (up (m, r), down (r, n)), dW = up @ down.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .errors import UserError
from .plp import BasisSpec, basis, frozen_sizes, split
from .storage import FLOATS, check_floats, own, read_tensors, reason, shown, write_tensors

Pairs = dict[str, tuple[Tensor, Tensor]]

# What other tools read first (Stability's model specification); the caller's metadata goes over it.
MODELSPEC = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.implementation": "diffusers",
}
# The layer and what the tensor is, per dialect. Wrappers in front of the layer ("unet.", the doubled
# "unet.unet.", peft's own) are taken off beforehand.
_WRAPPERS = re.compile(r"^(base_model\.model\.)?(unet\.)*")
_LAYER, _HALF = r"(?P<layer>[\w.]+?)", r"(?P<half>down|up)\.weight"
_DIALECTS = (
    re.compile(_LAYER + r"\.lora_(?P<half>[AB])(\.default)?\.weight"),
    re.compile(_LAYER + r"\.lora\." + _HALF),
    re.compile(_LAYER + r"(\.processor)?\.to_(?P<name>q|k|v|out)_lora\." + _HALF),
    re.compile(_LAYER + r"\.(?P<half>alpha)"),
)
_PEFT = {"A": "down", "B": "up"}
_FOREIGN = re.compile(r"text_encoder|lora_te|lora_unet_")  # whose keys end like ours


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
    found = [metadata.get(f"b4m.{name}") for name in ("seed", "rank", "ratio", "basis", "scale")]
    if all(value is None for value in found):
        return None
    try:
        seed, rank, ratio, kind, scale = found
        return BasisSpec(int(seed), int(rank), float(ratio), kind, float(scale))
    except (TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{where}: its basis (seed, rank, ratio, basis, scale: {found}) cannot be read; get the file again"
        ) from error


def save_lora(
    path: Path | str, layers: Pairs, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Write an ordinary rank-r LoRA that stock Diffusers loads, atomically.

    `layers`: layer -> (up (m, r), down (r, n)). `metadata`: header entries, written as given over the
    modelspec defaults; with `spec_metadata` among them the file can be split again. Raises UserError for no
    layer, for shapes that do not fit and for values that are not finite, also where `dtype` cannot hold them.
    """
    path = Path(path)
    if not layers:
        raise UserError(f"{shown(path)}: no layer to write; adapt at least one")
    tensors = {}
    for layer, (up, down) in layers.items():
        tensors[f"unet.{layer}.lora_A.weight"] = down.to(dtype)
        tensors[f"unet.{layer}.lora_B.weight"] = up.to(dtype)
    check_floats(shown(path), tensors)
    _check_pairs(shown(path), layers)
    write_tensors(path, tensors, {**MODELSPEC, "modelspec.title": path.stem, **metadata})


def load_lora(path: Path | str) -> tuple[Pairs, dict[str, str]]:
    """Read a LoRA of the UNet: layer -> (up (m, r), down (r, n)) float32, and the file's metadata.

    Keys: peft, the older Diffusers names, and the published doubled prefix. A scale of alpha / rank, given
    per layer or in Diffusers' adapter metadata, is folded into `up`. Raises UserError for anything else.
    """
    where = shown(path)
    tensors, metadata = read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        parsed = _parse(key)
        if parsed is None:
            unknown.append(key)
            continue
        layer, half = parsed
        if half in parts.setdefault(layer, {}):
            raise UserError(f"{where}: two tensors for the {half} half of {layer}; keep one of them")
        parts[layer][half] = tensor
    if unknown:
        raise UserError(
            f"{where}: {len(unknown)} of {len(tensors)} keys are not LoRA weights of a Diffusers UNet "
            f"({shown(', '.join(sorted(unknown)[:3]))}); convert the file to Diffusers keys, UNet only"
        )
    if not parts:
        raise UserError(f"{where}: holds no LoRA weights; give a LoRA file")
    config = _adapter_config(where, metadata)
    return {layer: _fold(where, layer, parts[layer], config) for layer in sorted(parts)}, metadata


def split_lora(layers: Pairs, spec: BasisSpec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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


def _parse(key: str) -> tuple[str, str] | None:
    """A tensor's key -> (layer, "up" | "down" | "alpha"); None for a key of any other kind."""
    bare = _WRAPPERS.sub("", key)
    if _FOREIGN.match(bare):
        return None
    for pattern in _DIALECTS:
        if found := pattern.fullmatch(bare):
            layer, half = found["layer"], _PEFT.get(found["half"], found["half"])
            if name := found.groupdict().get("name"):
                layer += f".to_{name}"
            # In older files to_out is one module; today it is a list of two.
            return re.sub(r"\.to_out$", ".to_out.0", layer), half
    return None


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


def _check_pairs(where: str, layers: Pairs) -> None:
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
