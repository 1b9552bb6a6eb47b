"""Changes that are no product of two projections: DoRA, LoHa and LoKr, computed by the lycoris library.

LoHa    dW = (w1_a w1_b) * (w2_a w2_b), element by element          arXiv 2108.06098
LoKr    dW = w1 (x) w2, a Kronecker product                          arXiv 2309.14859
DoRA    W' = m (W + dW) / |W + dW|, by rows or by columns            arXiv 2402.09353

The library is an extra (`pip install "b4m[lycoris]"`): without it such a file is refused by name.
"""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from ..core.errors import UserError

Parts = dict[str, Tensor]  # of one layer's change, by the names that dialects.parse gives them

_MAGNITUDES = {"magnitude", "rows"}  # of lycoris and kohya; of peft, always by rows
# What a kind cannot do without: one part of every row.
_NEEDED = {
    "LoRA": (("up",), ("down",)),
    "LoHa": (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",)),
    "LoKr": (
        ("lokr_w1", "lokr_w1_a"),
        ("lokr_w1", "lokr_w1_b"),
        ("lokr_w2", "lokr_w2_a"),
        ("lokr_w2", "lokr_w2_b"),
    ),
}


def kind_of(parts: Mapping[str, Tensor]) -> str:
    """LoRA, LoHa, LoKr, or the DoRA of one."""
    kind = _form(parts)
    if not _MAGNITUDES & parts.keys():
        return kind
    return "DoRA" if kind == "LoRA" else f"DoRA of a {kind}"


def _form(parts: Mapping[str, Tensor]) -> str:
    starts = {part.split("_")[0] for part in parts}
    return "LoHa" if "hada" in starts else "LoKr" if "lokr" in starts else "LoRA"


def missing(parts: Mapping[str, Tensor]) -> str | None:
    """A part without which the others mean nothing."""
    return next((row[-1] for row in _NEEDED[_form(parts)] if not parts.keys() & set(row)), None)


def rank_of(parts: Mapping[str, Tensor]) -> int | None:
    """By which alpha is divided; None for a LoKr of two whole matrices, which has none."""
    names = ("hada_w1_b", "lokr_w2_b", "lokr_w1_b", "down")
    return next((len(parts[name]) for name in names if name in parts), None)


def size_of(parts: Mapping[str, Tensor]) -> tuple[int, int]:
    """(outputs, inputs of one output) of the layer that the parts are for, of which none is missing."""
    match _form(parts):
        case "LoHa":
            return _size(parts["hada_w1_a"], parts["hada_w1_b"], parts.get("hada_t1"))
        case "LoKr":
            (a, b), (c, d) = (_factor_size(parts, name) for name in ("lokr_w1", "lokr_w2"))
            return a * c, b * d
        case _:
            down = parts["down"]
            return len(parts["up"]), down[0].numel() * parts.get("mid", down[..., :1, :1])[0, 0].numel()


def _factor_size(parts: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if (whole := parts.get(name)) is not None:
        return len(whole), whole[0].numel()
    return _size(parts[f"{name}_a"], parts[f"{name}_b"], parts.get("lokr_t2") if name == "lokr_w2" else None)


def _size(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[int, int]:
    """Of a product a b, or of a core (r, r, height, width) between a (r, outputs) and b (r, inputs)."""
    if core is None:
        return len(a), b[0].numel()
    return a.shape[1], b.shape[1] * core.shape[2:].numel()


@torch.no_grad()
def change(where: str, parts: Mapping[str, Tensor], scale: float, weight: Tensor) -> Tensor:
    """dW of a layer with this weight, float32. Raises UserError where lycoris is missing or the parts do not fit."""
    library = require(where, kind_of(parts))
    weight = weight.detach().float()
    parts = {part: tensor.to(weight.device) for part, tensor in parts.items()}
    try:
        dW = _product(library, parts, scale).reshape(weight.shape)
        if not _MAGNITUDES & parts.keys():
            return dW
        magnitude = parts.get("magnitude")
        if magnitude is None:
            magnitude = parts["rows"].reshape(len(weight), *[1] * (weight.dim() - 1))
        by_rows = len(magnitude) == len(weight)
        return (
            library["general"].weight_decompose(weight + dW, magnitude, 1, by_rows, backend="torch") - weight
        )
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in parts.items())
        raise UserError(
            f"{where}: a {kind_of(parts)} of another shape than the layer's {tuple(weight.shape)} ({shapes}); "
            "get the file again"
        ) from error


def _product(library: Mapping[str, ModuleType], parts: Mapping[str, Tensor], scale: float) -> Tensor:
    """dW before any magnitude."""
    match _form(parts):
        case "LoHa":
            order = ("w1_b", "w1_a", "w2_b", "w2_a", "t1", "t2")
            given = (parts.get(f"hada_{name}") for name in order)
            return library["loha"].diff_weight(*given, gamma=scale, backend="torch")
        case "LoKr":
            order = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
            given = (parts.get(f"lokr_{name}") for name in order)
            return library["lokr"].kron_weight(*given, scale=scale, backend="torch")
        case _:
            return library["locon"].diff_weight(
                parts["down"], parts["up"], parts.get("mid"), gamma=scale, backend="torch"
            )


def require(where: str, kind: str) -> dict[str, ModuleType]:
    """The library's formulas by kind. Raises UserError, led by `where`, where it is not installed."""
    try:
        return {
            name: import_module(f"lycoris.functional.{name}") for name in ("general", "locon", "loha", "lokr")
        }
    except ImportError as error:
        raise UserError(
            f"{where}: a {kind}, which is read through the lycoris library: pip install 'b4m[lycoris]', "
            "or convert it to a plain LoRA"
        ) from error
