"""A content and a style as one LoRA: the basis in a file's header, fused by it, dialled, taken apart again.

The ComfyUI nodes run this very file (integrations/comfyui): it needs torch and the maths, no model.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import FLOATS, own
from ..maths.plp import FACTORS, BasisSpec, basis, compose, frozen_sizes, split, start

Layers = dict[str, tuple[Tensor, Tensor]]  # layer -> up (m, r), down (r, n)


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


def fuse(
    spec: BasisSpec, layer: str, widths: tuple[int, int], factors: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """W_up (m, r) and W_down (r, n) of one layer; a half that is not given is as before training."""
    A, C = basis(spec, layer, *widths)
    B, D = start(spec, layer, *widths)
    return compose(A, factors.get("content", B), C, factors.get("style", D))


def dialled(layers: Layers, spec: BasisSpec, strength: Mapping[str, float]) -> Layers:
    """A fused LoRA whose B and D are multiplied. Raises UserError as `split_lora` does."""
    factors = dict(zip(FACTORS, split_lora(layers, spec), strict=True))
    return {
        name: fuse(
            spec,
            name,
            (up.shape[0], down.shape[1]),
            {kind: strength[kind] * factors[kind][name] for kind in FACTORS},
        )
        for name, (up, down) in layers.items()
    }


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


def _is_rounded(found: Tensor, frozen: Tensor) -> bool:
    """Whether a float32 block from a file is `frozen` in one of the dtypes a LoRA may be stored in."""
    return any(torch.equal(found, frozen.to(dtype).float()) for dtype in FLOATS)
