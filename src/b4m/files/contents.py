"""What a file from any tool changes of a UNet's layers, read with the scale that its tool gave it.

A layer is its module's full path in the UNet. A plain LoRA of it is a pair: up (m, r), down (r, n), dW = up @ down; of
a convolution down is (r, n, height, width). The scale is taken into `up`, wherever the tool has put it: an alpha in the
file (alpha / rank; none: 1), or peft's settings beside it or in its header.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import FLOATS, check_floats
from . import adapter_config
from .adapter_config import AdapterConfig
from .dialects import SDXL_DEPTH, body_of, parse
from .fused import Layers
from .identity import Sizes, beside, foreign, made_for
from .lycoris import Parts, kind_of, missing, rank_of, size_of

DEPTH = "b4m.layers_per_block"  # in files with original block names, where it is not SDXL's
_READ = (*FLOATS, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
_PEFT = "base_model.model."  # before the names in a file that peft itself wrote


@dataclass(frozen=True, eq=False)
class Contents:
    """All of a file that is for a UNet, float32."""

    layers: Layers = field(default_factory=dict)  # plain LoRAs
    others: dict[str, tuple[Parts, float]] = field(
        default_factory=dict
    )  # DoRA, LoHa, LoKr: their parts and scale
    notes: tuple[str, ...] = ()  # a line each: what was left out, what had to be assumed

    @property
    def kind(self) -> str:
        """LoRA, DoRA, LoHa, ..., or several of them."""
        kinds = {kind_of(parts) for parts, _ in self.others.values()} | ({"LoRA"} if self.layers else set())
        return " and ".join(sorted(kinds))

    @property
    def sizes(self) -> Sizes:
        """Of the layers that it changes."""
        plain = {layer: (len(up), down[0].numel()) for layer, (up, down) in self.layers.items()}
        return plain | {layer: size_of(parts) for layer, (parts, _) in self.others.items()}

    @property
    def ranks(self) -> list[int]:
        """All that occur."""
        others = {rank_of(parts) for parts, _ in self.others.values()}
        return sorted({len(down) for _, down in self.layers.values()} | {rank for rank in others if rank})

    @cached_property
    def made_for(self) -> tuple[str, ...]:
        """The published models that have all of its layers."""
        return made_for(self.sizes)


def settings_of(file: Path, metadata: Mapping[str, str]) -> AdapterConfig | None:
    """What peft says of a file, in its header or beside it. Raises UserError."""
    if file.name != adapter_config.TENSORS:
        return adapter_config.in_header(str(file), metadata) or adapter_config.beside(file)
    if found := adapter_config.beside(file):
        return found
    raise UserError(
        f"{file}: its scale stands in {adapter_config.FILE}, which is not beside it; copy both into one folder"
    )


def read_contents(
    where: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    settings: Callable[[], AdapterConfig | None] = lambda: None,
) -> Contents:
    """Raises UserError, led by `where`, for tensors that are not understood, incomplete or not finite.

    settings: what peft says of the file, asked for once it is known to be for a UNet.
    """
    layers, names, left = _sorted(where, tensors, read_depth(where, metadata))
    config = settings()
    found = Contents()
    for layer in sorted(layers):
        parts = _checked(where, layer, layers[layer])
        scale = _scale(where, layer, parts, names[layer], config)
        if kind_of(parts) == "LoRA":
            found.layers[layer] = _pair(where, layer, parts, scale)
        else:
            found.others[layer] = ({part: tensor for part, tensor in parts.items() if part != "alpha"}, scale)
    notes = [f"{n} tensors of a {part} are left out: b4m adapts the UNet alone" for part, n in left.items()]
    by_peft = any(key.startswith(_PEFT) and not beside(key) for key in tensors)
    if by_peft and config is None and not any("alpha" in parts for parts in layers.values()):
        notes.append(
            f"peft wrote it, and without its {adapter_config.FILE} a scale of 1 is assumed (lora_alpha = r)"
        )
    return replace(found, notes=tuple(notes))


def read_depth(where: str, metadata: Mapping[str, str]) -> int:
    """layers_per_block of the UNet whose blocks a file numbers: SDXL's unless its header names another."""
    value = metadata.get(DEPTH, str(SDXL_DEPTH))
    if not (value.isascii() and value.isdigit() and 1 <= len(value) <= 3 and int(value)):
        raise UserError(
            f"{where}: layers_per_block {value[:20]} is not one whole number, so blocks cannot be numbered; "
            "use the dialect kohya"
        )
    return int(value)


def check_pairs(where: str, layers: Layers) -> None:
    """Every pair must multiply, with rank 1 or more."""
    for layer, (up, down) in layers.items():
        if up.dim() != 2 or down.dim() not in (2, 4) or up.shape[1] != down.shape[0] or not down.shape[0]:
            raise UserError(
                f"{where}: {layer} has up {tuple(up.shape)} and down {tuple(down.shape)}, "
                "expected (m, r) and (r, n); the file is no LoRA of this kind"
            )


def _sorted(
    where: str, tensors: Mapping[str, Tensor], depth: int
) -> tuple[dict[str, Parts], dict[str, str], Counter[str]]:
    """The parts of every layer, what peft calls the layer, and how many tensors of what else there are."""
    layers: dict[str, Parts] = {}
    names: dict[str, str] = {}
    left: Counter[str] = Counter()
    unknown = []
    for key, tensor in tensors.items():
        parsed = parse(key, depth)
        if parsed is None:
            (left.update if (part := beside(key)) else unknown.extend)([part or key])
            continue
        _, layer, part = parsed
        if part in layers.setdefault(layer, {}):
            raise UserError(f"{where}: two tensors for the {part} half of {layer}; keep one of them")
        layers[layer][part] = tensor
        names[layer] = body_of(key).removeprefix(_PEFT) if key.startswith(_PEFT) else layer
    if unknown:
        raise _not_understood(where, tensors, sorted(unknown))
    if not layers:
        held = f"LoRA weights of a {' and a '.join(left)} alone" if left else "no LoRA weights"
        raise UserError(f"{where}: holds {held}; give a LoRA of the UNet")
    return layers, names, left


def _not_understood(where: str, tensors: Mapping[str, Tensor], unknown: list[str]) -> UserError:
    listed = ", ".join(key[:200] for key in unknown[:3])
    if what := foreign(tensors, unknown):
        return UserError(
            f"{where}: {what} ({listed}), which b4m cannot use; give a LoRA of a Stable Diffusion UNet"
        )
    return UserError(
        f"{where}: {len(unknown)} of {len(tensors)} keys are no LoRA weights of a Stable Diffusion UNet ({listed}); "
        "give a LoRA that Diffusers, peft, kohya or ComfyUI understands"
    )


def _checked(where: str, layer: str, parts: Parts) -> Parts:
    """The parts in float32 and finite: alpha one number, every other part a matrix or a stack of matrices."""
    wide = {part: tensor.float() if tensor.dtype in _READ else tensor for part, tensor in parts.items()}
    for part, tensor in wide.items():
        if part == "alpha":
            if tensor.numel() != 1 or not torch.isfinite(tensor).all():
                raise UserError(f"{where}: alpha of {layer} is not one finite number; get the file again")
            continue
        flat = tensor.reshape(1, -1) if part == "rows" else tensor.flatten(1) if tensor.dim() > 2 else tensor
        check_floats(where, {f"{layer} {part}": flat}, (torch.float32,))
    return wide


def _scale(where: str, layer: str, parts: Parts, name: str, config: AdapterConfig | None) -> float:
    """By which a layer's change is multiplied."""
    if part := missing(parts):
        raise UserError(f"{where}: {layer} has no {part} half; the file is incomplete, get it again")
    rank = rank_of(parts)
    if "alpha" in parts:
        alpha = float(parts["alpha"])
        if not alpha:
            raise UserError(
                f"{where}: alpha of {layer} is 0, which tools read differently; get the file again"
            )
        return alpha / rank if rank else 1.0
    if config is None:
        return 1.0
    if config.dora and kind_of(parts) in ("LoRA", "LoHa", "LoKr"):
        raise UserError(f"{config.where} says DoRA, and {layer} has no magnitude; get the file again")
    return config.scale(name, rank)


def _pair(where: str, layer: str, parts: Parts, scale: float) -> tuple[Tensor, Tensor]:
    """(up, down) of a plain LoRA, scaled; a LoCon's `mid`, between two 1 x 1 convolutions, goes into `down`."""
    up, down = parts["up"], parts["down"]
    if up.dim() == 4 and up.shape[2:].numel() == 1:
        up = up.flatten(1)
    if (mid := parts.get("mid")) is not None:
        if mid.dim() != 4 or down.dim() != 4 or mid.shape[:2] != (len(down), len(down)):
            raise UserError(
                f"{where}: {layer} has mid {tuple(mid.shape)} after down {tuple(down.shape)}; get the file again"
            )
        down = torch.einsum("abhw,bn->anhw", mid, down.flatten(1))
    if down.dim() == 4 and down.shape[2:].numel() == 1:
        down = down.flatten(1)
    check_pairs(where, {layer: (up, down)})
    return (up if scale == 1.0 else up * scale), down
