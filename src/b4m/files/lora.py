"""LoRA files: written in the dialect that a tool expects; what their headers say; split into content and style."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import check_floats, read_tensors, write_tensors
from .adapter_config import IN_HEADER
from .contents import Contents, Layers, check_pairs, read_contents, read_depth, settings_of
from .dialects import DIALECTS
from .fused import read_spec
from .identity import sizes_of
from .lycoris import require

NOT_CARRIED = (
    "Weights alone: guidance against the base model (b4m generate --negative base) and summed predictions "
    "(--compose predictions) are ways of drawing, which a LoRA file cannot carry."
)
# True of the file that was read and no longer of the one being written.
_STALE = (
    "format",
    IN_HEADER,
    "modelspec.hash_sha256",
    "ss_network_alpha",
    "sshs_legacy_hash",
    "sshs_model_hash",
)


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

    modelspec.*: Stability's model metadata specification. ss_*: kohya's names, by which A1111 lists trigger words. For
    which model it is says `metadata` (`Backbone.stamp`), or nothing. kind: "/lora", or "" for a whole model.
    """
    words = triggers(metadata)
    shown_words = {
        "modelspec.trigger_phrase": ", ".join(words),
        "ss_tag_frequency": json.dumps({f"1_{word}": {word: 1} for word in words}),
    }
    found = {
        "modelspec.title": title,
        **(shown_words if words else {}),
        **({"modelspec.usage_hint": NOT_CARRIED} if "b4m.basis" in metadata else {}),
        **{key: value for key, value in metadata.items() if key not in _STALE},
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": implementation,
    }
    if architecture := found.get("modelspec.architecture"):
        found["modelspec.architecture"] = architecture.removesuffix("/lora") + kind
    return found


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
    check_pairs(str(path), layers)
    exact = read_spec(str(path), metadata) is not None  # its frozen blocks are to be found again, bit for bit
    tensors = {}
    for layer, pair in layers.items():
        up, down = (matrix.to(dtype) for matrix in pair) if exact else in_dtype(*pair, dtype)
        tensors[f"{names[layer]}{spelling.down}"] = down
        tensors[f"{names[layer]}{spelling.up}"] = up[..., None, None] if down.dim() == 4 else up
    check_floats(str(path), {key: tensor.flatten(1) for key, tensor in tensors.items()})
    facts = header(metadata, path.stem, spelling.implementation)
    if mixed(layers):
        facts[IN_HEADER] = json.dumps({f"unet.{key}": value for key, value in peft_settings(layers).items()})
    elif spelling.alpha:  # equal to the rank, since the scale is in the factors
        tensors |= {
            f"{names[layer]}.alpha": torch.tensor(float(len(down))) for layer, (_, down) in layers.items()
        }
    write_tensors(path, tensors, facts)


def mixed(layers: Layers) -> bool:
    """Whether ranks differ from layer to layer, which not every reader follows."""
    return len({len(down) for _, down in layers.values()}) > 1


def peft_settings(layers: Layers) -> dict[str, Any]:
    """Every rank, with alpha equal to it, as peft's settings of an adapter, which Diffusers also writes into a header.

    Without them some releases of Diffusers take one alpha for all layers, and give alphas that differ to the wrong
    ones; in a header it follows them since 0.34. Other tools read a file without alphas as it is meant: alpha is the
    rank.
    """
    ranks = {layer: len(down) for layer, (_, down) in layers.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    differing = {layer: rank for layer, rank in ranks.items() if rank != usual}
    return {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": differing,
        "alpha_pattern": differing,
        "target_modules": list(ranks),
    }


def in_dtype(up: Tensor, down: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The pair in `dtype`; where a small `up` would lose digits there, both are brought to one size first.

    A power of two goes from one to the other, so that the product stays the same.
    """
    lost = (up.to(dtype).float() - up).norm()
    if torch.finfo(dtype).eps * up.norm() < lost < math.inf and down.any():
        power = math.floor(math.log2(float(down.abs().max() / up.abs().max())) / 2)
        up, down = up * 2.0**power, down * 2.0**-power
    return up.to(dtype), down.to(dtype)


def load_lora(path: Path | str) -> tuple[Layers, dict[str, str]]:
    """Read a plain LoRA of the UNet: layer -> (up (m, r), down (r, n)) float32, and the file's metadata.

    In any of DIALECTS and some spellings more; the scale is folded into `up`. Raises UserError for anything else,
    listing the first keys that are not understood.
    """
    tensors, metadata = read_tensors(path)
    found = read_contents(str(path), tensors, metadata, partial(settings_of, Path(path), metadata))
    if found.others:
        raise UserError(f"{path}: a {found.kind}, and no plain LoRA; convert it to one")
    return found.layers, metadata


def fit(where: str, contents: Contents, denoiser: ModelMixin, base_model: str) -> Layers:
    """The plain LoRAs, in the shapes of the denoiser: to them, 1 x 1 convolutions and linear layers are one.

    Raises UserError, led by `where`, unless everything in `contents` fits a layer of `base_model`'s denoiser and can be
    computed.
    """
    if contents.others:
        require(where, contents.kind)
    wanted, sizes = sizes_of(denoiser), contents.sizes
    if wrong := sorted(layer for layer, size in sizes.items() if wanted.get(layer) != size):
        advice = "give --base-model as it was in training"
        if contents.made_for:
            advice = f"they are of {' or '.join(contents.made_for)}: give such a model with --base-model"
        raise UserError(
            f"{where}: {len(wrong)} of {len(sizes)} layers do not fit the UNet of {base_model} "
            f"({', '.join(wrong[:3])}); {advice}"
        )
    shapes = {layer: denoiser.get_submodule(layer).weight.shape for layer in contents.layers}
    return {
        layer: (up, down.reshape(len(down), *shapes[layer][1:]))
        for layer, (up, down) in contents.layers.items()
    }
